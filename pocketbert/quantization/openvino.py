"""OpenVINO: conversion, static int8, running."""

import torch

from pocketbert.quantization.graph import graph_inputs


def to_openvino(plain, target, samples=None):
    """ONNX to OpenVINO.

    samples: [(input_ids, attention_mask), ...]; NNCF runs them, records the range of each activation and fixes its
    int8 scale. None: the graph stays fp32.
    """
    import openvino
    graph = openvino.Core().read_model(plain)
    if samples:
        import nncf
        dataset = nncf.Dataset(samples, lambda sample: graph_inputs(*sample))
        graph = nncf.quantize(graph, dataset, subset_size=len(samples), model_type=nncf.ModelType.TRANSFORMER,
                              ignored_scope=nncf.IgnoredScope(patterns=["/head/.*"]))
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
