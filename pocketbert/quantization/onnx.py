"""ONNX graphs: dynamic int8, fusion."""

from pocketbert.hardware import products_overflow


def quantize_onnx(plain, target):
    """int8 for every matrix and embedding table outside the head, uint8 for the activations.

    Where products overflow the weights get 7 bits (reduce_range).
    The plain graph is quantized, not the fused one: int8 after the fusion of attention was a fifth slower at batch 32.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic
    body = [node.name for node in onnx.load(str(plain)).graph.node
            if node.name.startswith(("/embeddings/", "/layers."))]
    quantize_dynamic(plain, target, op_types_to_quantize=["MatMul", "Gather"], nodes_to_quantize=body,
                     per_channel=True, reduce_range=products_overflow(), weight_type=QuantType.QInt8)


def fuse_onnx(plain, target):
    """Fuse with ONNX Runtime's transformer optimizer, as Hugging Face's Optimum does at its level O2.

    Fused are bias + GELU (BiasGelu), sum + bias + LayerNorm (SkipLayerNormalization) and the attention of all layers
    but the last (Attention, with Q, K and V in one product). The last layer computes the first token alone, which the
    fused operator cannot; to fuse it too would mean to compute outputs that nothing reads.
    ONNX Runtime fuses much of this by itself when it opens the plain graph, and on a two-core server the two took
    equally long: measure before you choose.
    """
    from onnxruntime.transformers.fusion_options import FusionOptions
    from onnxruntime.transformers.optimizer import optimize_model
    fusions = FusionOptions("bert")
    fusions.use_raw_attention_mask(True)  # the mask itself; the default keeps only the number of its ones
    # 0 heads: read them from each layer's own shapes, since pruned layers differ
    graph = optimize_model(str(plain), model_type="bert", num_heads=0, hidden_size=0, opt_level=0,
                           optimization_options=fusions)
    graph.save_model_to_file(str(target))
