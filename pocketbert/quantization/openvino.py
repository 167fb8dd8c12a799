"""OpenVINO: conversion, static int8."""

from pocketbert.hardware import products_overflow
from pocketbert.models.masks import full_mask
from pocketbert.quantization.graph import INPUTS


def as_inputs(sample):
    """(input_ids, attention_mask) -> {name of an input: int64 array (B, T)}"""
    input_ids, attention_mask = sample
    masked = zip(INPUTS, (input_ids, full_mask(input_ids, attention_mask)), strict=True)
    return {name: tensor.long().numpy() for name, tensor in masked}


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
        dataset = nncf.Dataset(samples, as_inputs)
        fix = nncf.OverflowFix.ENABLE if products_overflow() else nncf.OverflowFix.DISABLE
        graph = nncf.quantize(graph, dataset, subset_size=len(samples), model_type=nncf.ModelType.TRANSFORMER,
                              ignored_scope=nncf.IgnoredScope(patterns=["/head/.*"]),
                              advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=fix))
    openvino.save_model(graph, target, compress_to_fp16=False)
