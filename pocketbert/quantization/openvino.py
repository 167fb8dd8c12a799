"""OpenVINO: conversion, static int8, running."""

import torch

from pocketbert.quantization.graph import graph_inputs, products_overflow


def to_openvino(plain, target, samples=None):
    """ONNX to OpenVINO.

    samples: [(input_ids, attention_mask), ...]; NNCF runs them, records the range of each activation and fixes its
    int8 scale. Where int8 products overflow, the weights get 7 bits. On a small encoder of random weights the error of
    the logits, over their spread, was 0.21 with 8 bits on a processor that overflows, 0.10 with 7 bits, and 0.08 with
    8 bits where nothing overflows. None: the graph stays fp32.
    """
    import openvino
    graph = openvino.Core().read_model(plain)
    if samples:
        import nncf
        dataset = nncf.Dataset(samples, lambda sample: graph_inputs(*sample))
        fix = nncf.OverflowFix.ENABLE if products_overflow() else nncf.OverflowFix.DISABLE
        graph = nncf.quantize(graph, dataset, subset_size=len(samples), model_type=nncf.ModelType.TRANSFORMER,
                              ignored_scope=nncf.IgnoredScope(patterns=["/head/.*"]),
                              advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=fix))
    openvino.save_model(graph, target, compress_to_fp16=False)


def open_openvino(path):
    """-> (names of the inputs, number of logits, run)"""
    import openvino
    graph = openvino.Core().compile_model(path, "CPU", {
        "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": "f32"})  # the default is bf16 where the processor has it: other logits
    inputs = [port.any_name for port in graph.inputs]
    num_labels = graph.output(0).partial_shape[-1].get_length()
    return inputs, num_labels, lambda arrays: graph(arrays)[0]
