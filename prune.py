"""Prune attention heads and FFN neurons: find the ones that matter least, silence them, cut them out.

How much would the loss change if a head were gone? Put a gate xi in front of each head's output, xi = 1, and
ask the gradient (Michel, Levy and Neubig 2019, arXiv:1905.10650, section 4.1):

    importance(head) = E_x | dL(x) / dxi |

The gates are the explicit `head_mask` and `ffn_mask` of the encoder, so one backward pass over some texts gives
the importance of every head and neuron. The least important get mask 0; the score with the masks on tells the
harm; then the tensors are really cut, which changes no logit, and a little fine-tuning recovers most of the loss.

    python prune.py --model runs/demo/teacher --data demo --out runs/demo/pruned --heads 0.5 --ffn 0.5
    python prune.py --model runs/tweets/teacher --data tweet_sentiment_extraction --out runs/tweets/pruned \\
        --heads 0.5 --ffn 0.5 --steps 2 --epochs 1 --lr 1e-4

Add your own importance: write a function like `magnitude_importance` and name it in IMPORTANCE.
"""

import copy
import math

import torch
import torch.nn.functional as F
from torch import nn

from data_utils import batches, take
from measure_utils import count_parameters
from model_utils import check_out, load_model, save_model
from train_utils import (
    Optimizer,
    TrainingLog,
    add_common_flags,
    add_training_flags,
    autocast,
    encode,
    fraction,
    open_data,
    parser_for,
    pick_device,
    positive_int,
    predict,
    prepare_for_training,
    provenance,
    run_script,
    scores,
    seed_everything,
)

# ---------------------------------------------------------------------------------------------------------
# 1. How important is each head, each neuron?  model, texts -> (a vector a layer, a vector a layer)
# ---------------------------------------------------------------------------------------------------------

def gradient_importance(model, texts):
    """E_x |dL(x)/dmask| (Michel et al. 2019): the mean over texts of each text's own absolute gradient.

    Each text gets its own copy of the masks, so one backward pass gives the gradients text by text. The
    absolute value comes before the mean: a head that helps one text and harms the next is not unimportant.
    Each layer is scaled to norm 1, as in the paper, because gradients shrink from layer to layer.
    """
    heads = [torch.zeros(layer.attention.num_heads) for layer in model.layers]
    neurons = [torch.zeros(layer.ffn.up.out_features) for layer in model.layers]
    model.eval()  # the importance of the model that will be used: no dropout
    for batch in texts:
        B = len(batch.labels)
        head_mask = [torch.ones(B, len(h), device=model.device, requires_grad=True) for h in heads]
        ffn_mask = [torch.ones(B, len(n), device=model.device, requires_grad=True) for n in neurons]
        logits = model(batch.input_ids, batch.attention_mask, head_mask, ffn_mask)
        # The sum, not the mean, so that every text's gradient is its own and not 1/B of it.
        loss = F.cross_entropy(logits, batch.labels, reduction="sum")
        gradients = torch.autograd.grad(loss, head_mask + ffn_mask)
        for total, gradient in zip(heads + neurons, gradients, strict=True):
            total += gradient.abs().sum(dim=0).cpu()
    return [F.normalize(h, dim=0) for h in heads], [F.normalize(n, dim=0) for n in neurons]


def magnitude_importance(model, texts):
    """The norm of the weights that a cut would remove: cheap, and blind to what the texts need."""
    heads, neurons = [], []
    for layer in model.layers:
        a, size = layer.attention, layer.attention.head_size
        rows = sum(part.weight.detach().unflatten(0, (-1, size)).square().sum(dim=(1, 2))
                   for part in (a.query, a.key, a.value))
        columns = a.output.weight.detach().unflatten(1, (-1, size)).square().sum(dim=(0, 2))
        heads.append((rows + columns).sqrt().cpu())
        up, down = layer.ffn.up.weight.detach(), layer.ffn.down.weight.detach()
        neurons.append((up.square().sum(dim=1) + down.square().sum(dim=0)).sqrt().cpu())
    return heads, neurons


def random_importance(model, texts):
    """Dice: the control. A method that does not beat this one has learnt nothing about the model."""
    return ([torch.rand(layer.attention.num_heads) for layer in model.layers],
            [torch.rand(layer.ffn.up.out_features) for layer in model.layers])


IMPORTANCE = {"gradient": gradient_importance, "magnitude": magnitude_importance, "random": random_importance}


# ---------------------------------------------------------------------------------------------------------
# 2. Which ones stay?  importance -> masks
# ---------------------------------------------------------------------------------------------------------

def keep_most_important(importance, keep):
    """Masks that keep the `keep` most important units of all layers together, at least one in each layer.

    importance: a vector a layer, of any lengths.    Returns as many vectors of 1 (stays) and 0 (goes).
    Layers come out uneven: where all units matter, all stay.
    """
    if keep < len(importance):
        raise ValueError(f"cannot keep {keep} of {sum(map(len, importance))} units in {len(importance)} layers: "
                         "each layer needs at least one")
    scores = [vector.clone().float() for vector in importance]
    for vector in scores:
        vector[vector.argmax()] = math.inf  # the best of each layer stays, whatever the others have
    best = torch.cat(scores).topk(keep).indices
    mask = torch.zeros(sum(map(len, scores)))
    mask[best] = 1
    return list(mask.split([len(vector) for vector in scores]))


def masks_for_budget(importance, heads_to_keep, neurons_to_keep):
    head_importance, ffn_importance = importance
    return (keep_most_important(head_importance, heads_to_keep),
            keep_most_important(ffn_importance, neurons_to_keep))


# ---------------------------------------------------------------------------------------------------------
# 3. Cut: masks -> smaller tensors
# ---------------------------------------------------------------------------------------------------------

def cut_linear(linear, rows=None, columns=None):
    """A smaller nn.Linear with the chosen output rows and input columns (index vectors; None: all of them)."""
    weight, bias = linear.weight.detach(), linear.bias.detach()
    if rows is not None:
        weight, bias = weight[rows], bias[rows]
    if columns is not None:
        weight = weight[:, columns]
    smaller = nn.Linear(weight.shape[1], weight.shape[0], device=weight.device)
    smaller.weight.data, smaller.bias.data = weight.clone(), bias.clone()
    return smaller


def cut_attention(attention, head_mask):
    """Remove the heads with mask 0: their rows of query, key and value, their columns of the output matrix."""
    kept = head_mask.bool().repeat_interleave(attention.head_size).nonzero().flatten()
    for name in ("query", "key", "value"):
        setattr(attention, name, cut_linear(getattr(attention, name), rows=kept))
    attention.output = cut_linear(attention.output, columns=kept)
    attention.num_heads = int(head_mask.sum())


def cut_ffn(ffn, ffn_mask):
    """Remove the neurons with mask 0: rows of the first matrix, columns of the second."""
    kept = ffn_mask.bool().nonzero().flatten()
    ffn.up, ffn.down = cut_linear(ffn.up, rows=kept), cut_linear(ffn.down, columns=kept)


def cut(model, head_mask, ffn_mask):
    """A copy of the model without the masked heads and neurons. Same logits, fewer bytes, fewer milliseconds."""
    model = copy.deepcopy(model)
    for layer, heads, neurons in zip(model.layers, head_mask, ffn_mask, strict=True):
        cut_attention(layer.attention, heads.to(model.device))
        cut_ffn(layer.ffn, neurons.to(model.device))
    model.config.heads_per_layer = [layer.attention.num_heads for layer in model.layers]
    model.config.neurons_per_layer = [layer.ffn.up.out_features for layer in model.layers]
    return model


@torch.no_grad()
def check_cut_equals_masked(cut_model, model, head_mask, ffn_mask, batch, tolerance=1e-5):
    """The proof that nothing but zeros was removed: largest |logit difference|, an error above the tolerance."""
    masked = model(batch.input_ids, batch.attention_mask, head_mask, ffn_mask)
    difference = (cut_model(batch.input_ids, batch.attention_mask) - masked).abs().max().item()
    assert difference <= tolerance * max(1.0, masked.abs().max().item()), \
        f"the cut model's logits differ from the masked model's by {difference:.2g}"
    return difference


# ---------------------------------------------------------------------------------------------------------
# 4. Recover: the loop of train.py, on the smaller model
# ---------------------------------------------------------------------------------------------------------

def recover(model, train_ids, train_labels, validate, args, pad_id, log):
    """Fine-tune what is left. The best epoch's weights are kept."""
    batches_per_epoch = math.ceil(len(train_ids) / args.batch_size)
    optimizer = Optimizer(model, args, num_batches=args.epochs * batches_per_epoch)
    for epoch in log.epochs():
        model.train()
        shuffled = batches(train_ids, train_labels, args.batch_size, pad_id, shuffle_seed=args.seed + epoch)
        for batch in log.progress(shuffled, total=batches_per_epoch):
            batch = batch.to(model.device)
            with autocast(model.device, args.bf16):
                loss = F.cross_entropy(model(batch.input_ids, batch.attention_mask), batch.labels)
            loss.backward()
            optimizer.step(loss)
            log.batch(loss)
        log.add(epoch, validate(model))
    log.restore_best()


def parse_args(argv=None):
    parser = parser_for(__doc__)
    parser.add_argument("--model", required=True, help="the model folder to prune")
    parser.add_argument("--out", required=True, help="the model folder to write")
    parser.add_argument("--heads", type=fraction, default=0.5, help="share of the attention heads that stays")
    parser.add_argument("--ffn", type=fraction, default=0.5, help="share of the FFN neurons that stays")
    parser.add_argument("--importance", choices=list(IMPORTANCE), default="gradient")
    parser.add_argument("--samples", type=positive_int, default=1024,
                        help="training texts that the importance is measured on")
    parser.add_argument("--steps", type=positive_int, default=1,
                        help="reach the budget in so many equal steps, with recovery after each")
    add_training_flags(parser, epochs=1, lr=5e-5)
    add_common_flags(parser)
    return parser.parse_args(argv)


def main(argv=None, after_epoch=None):
    args = parse_args(argv)
    check_out(args.out)
    device = pick_device(args.device)
    seed_everything(args.seed)
    model, tokenizer = load_model(args.model)
    prepare_for_training(model, args)
    data = open_data(args, model.config.label_names)
    model.to(device)
    train_ids, val_ids = (encode(tokenizer, split, args, model) for split in (data.train, data.validation))
    sample = take(data.train, args.samples, seed=args.seed)
    sample_ids = encode(tokenizer, sample, args, model)

    def validate(model, **masks):
        return scores(predict(model, val_ids, args.batch_size, tokenizer.pad_id, **masks), data.validation.labels)

    def count_units(model):
        return sum(model.config.heads_per_layer), sum(model.config.neurons_per_layer)

    before, size_before, (heads, neurons) = validate(model), count_parameters(model), count_units(model)
    print(f"unpruned: {heads} heads, {neurons} neurons, macro-F1 {before['macro_f1']:.4f}")
    log, trail = TrainingLog(model, args, after_epoch), []
    for step in range(1, args.steps + 1):
        # Equal steps: at step s of S, a share 1 - s/S of what will go is still there.
        share = {unit: 1 - (1 - kept) * step / args.steps for unit, kept in (("heads", args.heads), ("ffn", args.ffn))}
        keep = (max(len(model.layers), round(share["heads"] * heads)),
                max(len(model.layers), round(share["ffn"] * neurons)))
        texts = [batch.to(device) for batch in batches(sample_ids, sample.labels, args.batch_size, tokenizer.pad_id)]
        head_mask, ffn_mask = masks_for_budget(IMPORTANCE[args.importance](model, texts), *keep)
        head_mask, ffn_mask = [m.to(device) for m in head_mask], [m.to(device) for m in ffn_mask]

        masked = validate(model, head_mask=head_mask, ffn_mask=ffn_mask)
        smaller = cut(model, head_mask, ffn_mask)
        difference = check_cut_equals_masked(smaller.eval(), model.eval(), head_mask, ffn_mask, texts[0])
        model = smaller
        print(f"step {step}/{args.steps}: {keep[0]} heads and {keep[1]} neurons stay, {args.importance} importance | "
              f"macro-F1 with masks {masked['macro_f1']:.4f} | cut: logits differ by {difference:.1e}")
        log.start_over(model, masked)
        if args.epochs:
            recover(model, train_ids, data.train.labels, validate, args, tokenizer.pad_id, log)
        trail.append({"heads": model.config.heads_per_layer, "neurons": model.config.neurons_per_layer,
                      "masked": masked, "recovered": validate(model)})

    after = trail[-1]["recovered"]
    save_model(model, tokenizer, args.out, provenance(
        "prune.py", args, argv, parent=args.model, data=data, history=log.history, validation=after, pruning=trail))
    log.finish()
    parameters = count_parameters(model)
    print(f"heads per layer   {' '.join(map(str, model.config.heads_per_layer))}\n"
          f"neurons per layer {' '.join(map(str, model.config.neurons_per_layer))}\n"
          f"{'':<12}{'parameters':>14}{'macro-F1':>10}\n"
          f"{'before':<12}{size_before:>14,}{before['macro_f1']:>10.4f}\n"
          f"{'pruned':<12}{parameters:>14,}{masked['macro_f1']:>10.4f}   (last step, before recovery)\n"
          f"{'recovered':<12}{parameters:>14,}{after['macro_f1']:>10.4f}\n"
          f"next: python quantize.py --model {args.out} --out {args.out}-int8 --data {args.data}")


if __name__ == "__main__":
    run_script(main)
