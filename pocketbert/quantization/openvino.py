"""OpenVINO: conversion, static int8, running."""

import torch

from pocketbert.quantization.graph import INPUTS


def to_openvino(plain, target, batches=None):
    """ONNX to OpenVINO. With batches: NNCF runs them, notes the range of each activation and fixes its scale."""
    import openvino
    graph = openvino.Core().read_model(plain)
    if batches:
        import nncf
        samples = nncf.Dataset(batches, lambda batch: {
            name: tensor.cpu().numpy() for name, tensor in zip(INPUTS, batch, strict=True)})
        graph = nncf.quantize(graph, samples, subset_size=len(batches), model_type=nncf.ModelType.TRANSFORMER,
                              ignored_scope=nncf.IgnoredScope(patterns=["/head/.*"]))
    openvino.save_model(graph, target, compress_to_fp16=False)


def open_openvino(path):
    """-> (names of the inputs, number of logits, run)"""
    import openvino
    graph = openvino.Core().compile_model(path, "CPU", {
        "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": "f32"})  # the default is bf16 where the processor has it: other logits
    return ([port.any_name for port in graph.inputs], graph.output(0).partial_shape[-1].get_length(),
            lambda inputs: graph(inputs)[0])
