"""The arithmetic of distillation: what a student can learn from its teachers, as losses.

1. soft targets   the teacher's probabilities instead of one label;
2. inner tensors  what the teacher computes on the way: hidden states, attention scores, relations of Q, K and V;
3. capture        how to get at these during a forward pass, and which block of the student learns from which;
4. teachers       several of them, each made as confident as it is right, then averaged;
5. narrow         a student's embeddings, narrower than the teacher's.

Pure functions, no flags; a teacher never gets a gradient. Padding is not text: no loss looks at it, on either side.
Logits are (batch, num_labels), or (teachers, batch, num_labels); label -1 stands for a text without a label.
"""

import math
from contextlib import contextmanager

import torch
import torch.nn.functional as F

# ---------------------------------------------------------------------------------------------------------
# 1. Soft targets:  (student_logits, teacher_logits, ...) -> one number, the mean over the batch
# ---------------------------------------------------------------------------------------------------------

def check_logits(student_logits, teacher_logits, temperature):
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(f"student logits {tuple(student_logits.shape)} and teacher logits "
                         f"{tuple(teacher_logits.shape)} differ: do both models have the same label list?")
    if temperature <= 0:
        raise ValueError(f"temperature {temperature} must be above 0")


def soft_target_loss(student_logits, teacher_logits, temperature=2.0):
    """T^2 KL(softmax(teacher / T) || softmax(student / T)) (Hinton et al. 2015, arXiv:1503.02531, section 2).

    Nats per text. T^2 undoes the 1/T^2 that softening puts on the gradient.
    """
    check_logits(student_logits, teacher_logits, temperature)
    soft_targets = F.softmax(teacher_logits.detach() / temperature, dim=-1)
    log_probs = F.log_softmax(student_logits / temperature, dim=-1)
    # "batchmean": "mean" would also divide by num_labels.
    return F.kl_div(log_probs, soft_targets, reduction="batchmean") * temperature ** 2


def centred(logits):
    """The logits of each text minus their mean: softmax cannot see the difference."""
    return logits - logits.mean(dim=-1, keepdim=True)


def logit_mse_loss(student_logits, teacher_logits, temperature=None):
    """1/2 mean (student - teacher)^2 of the centred logits, over labels and texts; there is no temperature.

    Regression on logits (Ba and Caruana 2014, arXiv:1312.6184; Tang et al. 2019, arXiv:1903.12136). The half and the
    mean over labels make it what soft_target_loss becomes as T grows (Hinton et al., equation 4), so the weight of
    the soft targets keeps its meaning. Centred, because a teacher may add any number to all logits of a text.
    """
    check_logits(student_logits, teacher_logits, temperature=1.0)
    return 0.5 * F.mse_loss(centred(student_logits), centred(teacher_logits.detach()))


def split_at_target(logits, labels):
    """log-probabilities of (the target, any other label) (B, 2), and among the other labels alone (B, C - 1)."""
    is_target = F.one_hot(labels, logits.shape[-1]).bool()
    others = logits[~is_target].view(len(logits), -1)
    # logsumexp, not log(1 - p): with a sure teacher, 1 - p is 0 in float32 and its logarithm is not a number.
    target_or_not = torch.stack([logits[is_target], others.logsumexp(dim=-1)], dim=-1)
    return F.log_softmax(target_or_not, dim=-1), F.log_softmax(others, dim=-1)


def decoupled_kd_loss(student_logits, teacher_logits, labels, temperature=4.0, tckd_weight=1.0, nckd_weight=8.0):
    """T^2 (tckd_weight * TCKD + nckd_weight * NCKD) (Zhao et al. 2022, arXiv:2203.08679).

    With p_t the teacher's softened probability of the target, Hinton's loss is the sum of two:

        KL = TCKD + (1 - p_t) NCKD      TCKD: KL of (p_t, 1 - p_t), "how sure?"
                                        NCKD: KL among the other labels, "what else could it be?"

    and the factor silences the second where the teacher is sure. Here both have weights of their own; 1, 8 and T = 4
    are the paper's, for the 100 labels of CIFAR-100. With two labels there is one other, of probability 1: NCKD is 0,
    and what is left is Hinton's loss. A text without a label (-1) has the teacher's best label for its target.
    Nats per text.
    """
    check_logits(student_logits, teacher_logits, temperature)
    teacher_logits = teacher_logits.detach()
    target = torch.where(labels < 0, teacher_logits.argmax(dim=-1), labels)
    student_target, student_others = split_at_target(student_logits / temperature, target)
    teacher_target, teacher_others = split_at_target(teacher_logits / temperature, target)
    tckd = F.kl_div(student_target, teacher_target, reduction="batchmean", log_target=True)
    nckd = F.kl_div(student_others, teacher_others, reduction="batchmean", log_target=True)
    return temperature ** 2 * (tckd_weight * tckd + nckd_weight * nckd)


# ---------------------------------------------------------------------------------------------------------
# 2. Inner tensors:  (student's, teacher's, attention_mask) -> the mean over real tokens
# ---------------------------------------------------------------------------------------------------------

def check_tokens(student, teacher, attention_mask):
    """Inner tensors are compared token by token; a student with another tokenizer shares nothing but the logits."""
    student, teacher, mask = (tuple(x.shape[:2]) for x in (student, teacher, attention_mask))
    if not student == teacher == mask:
        raise ValueError(f"(texts, tokens) differ: student {student}, teacher {teacher}, attention_mask {mask}; hidden "
                         "states, attention and relations need a student with the teacher's tokenizer, on one batch")


def hidden_loss(student_hidden, teacher_hidden, attention_mask, projection=None):
    """mean (student W - teacher)^2 over real tokens and the teacher's width (TinyBERT, arXiv:1909.10351).

    student_hidden: (B, T, student width)    teacher_hidden: (B, T, teacher width)    attention_mask: (B, T)
    projection: an nn.Linear(student width, teacher width), trained with the student and thrown away afterwards;
    None where the widths agree.
    """
    check_tokens(student_hidden, teacher_hidden, attention_mask)
    if projection is not None:
        student_hidden = projection(student_hidden)
    if student_hidden.shape != teacher_hidden.shape:
        raise ValueError(f"the student's hidden states are {student_hidden.shape[-1]} wide, the teacher's "
                         f"{teacher_hidden.shape[-1]}: give a projection from the first to the second")
    real = attention_mask.bool()
    return F.mse_loss(student_hidden[real], teacher_hidden[real].detach())


def attention_scores(query, key, num_heads):
    """Q K^T / sqrt(head_size), before the softmax: two (B, T, heads * head_size) -> (B, heads, T, T)."""
    q, k = (x.unflatten(-1, (num_heads, -1)).transpose(1, 2) for x in (query, key))
    return q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])


def attention_loss(student_scores, teacher_scores, attention_mask):
    """mean (student - teacher)^2 of the attention scores before the softmax (TinyBERT, arXiv:1909.10351).

    student_scores: (B, student heads, Q, T)    teacher_scores: (B, teacher heads, Q, T)    attention_mask: (B, T)
    Q: of the T tokens, the first ones. Only pairs of two real tokens count. With as many heads on both sides, head i
    learns from head i. With other numbers there is no such pair, and the mean over the student's heads learns from the
    mean over the teacher's: a weaker lesson, for which relation_loss was invented.
    """
    queries = student_scores.shape[2]
    check_tokens(student_scores[:, 0], teacher_scores[:, 0], attention_mask[:, :queries])
    teacher_scores = teacher_scores.detach()
    if student_scores.shape[1] != teacher_scores.shape[1]:
        student_scores, teacher_scores = (x.mean(dim=1, keepdim=True) for x in (student_scores, teacher_scores))
    real = attention_mask.bool()
    pairs = real[:, :queries, None] & real[:, None, :]  # (B, Q, T)
    return F.mse_loss(student_scores.movedim(1, -1)[pairs], teacher_scores.movedim(1, -1)[pairs])


def log_relations(x, attention_mask, num_relation_heads):
    """log softmax(Y Y^T / sqrt(d)) for each relation head: (B, T, width) -> (B, relation heads, T, T).

    Y is one of num_relation_heads slices of x, each d = width / num_relation_heads wide: row t says which tokens
    token t resembles. Keys that are padding get no probability.
    """
    if num_relation_heads < 1 or x.shape[-1] == 0 or x.shape[-1] % num_relation_heads:
        raise ValueError(f"vectors of width {x.shape[-1]} cannot be cut into {num_relation_heads} relation heads: "
                         "take a number that divides the student's width and the teacher's")
    scores = attention_scores(x, x, num_relation_heads)
    # The lowest number instead of -inf: the KL below would be 0 * (-inf + inf), which is not 0 in floating point.
    scores = scores.masked_fill(~attention_mask.bool()[:, None, None, :], torch.finfo(scores.dtype).min)
    return F.log_softmax(scores, dim=-1)


def relation_loss(student_x, teacher_x, attention_mask, num_relation_heads):
    """mean KL(teacher's relations || student's) over real tokens and heads (MiniLMv2, arXiv:2012.15828, section 3).

    student_x: (B, T, student width)    teacher_x: (B, T, teacher width)    attention_mask: (B, T)
    x is what one of the matrices query, key and value makes of the tokens, all heads side by side; the paper takes
    the three losses of one block of each, with more relation heads (48 for a base model) than there are heads. A
    relation is T x T, whatever the width and the number of heads: no projection is needed. Nats per row.
    """
    check_tokens(student_x, teacher_x, attention_mask)
    student = log_relations(student_x, attention_mask, num_relation_heads)
    teacher = log_relations(teacher_x.detach(), attention_mask, num_relation_heads)
    rows = F.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=-1)  # (B, relation heads, T)
    return rows.transpose(1, 2)[attention_mask.bool()].mean()


# ---------------------------------------------------------------------------------------------------------
# 3. Which blocks, and how to look inside
# ---------------------------------------------------------------------------------------------------------

def layer_map(student_depth, teacher_depth, kind="uniform"):
    """[g(0), g(1), ..., g(M)]: block m of a student with M blocks learns from block g(m) of a teacher with N.

    Number 0 is the embeddings, and block m is model.layers[m - 1], as in TinyBERT (arXiv:1909.10351):
    "uniform"  g(m) = m N / M, rounded: all depths are represented (the paper's choice)
    "last"     g(m) = m + N - M: the teacher's last M blocks
    Both send 0 to 0 and M to N.
    """
    M, N = student_depth, teacher_depth
    if not 1 <= M <= N:
        raise ValueError(f"a student with {M} blocks cannot be mapped into a teacher with {N}: it must have 1 to {N}")
    if kind == "uniform":
        return [(2 * m * N + M) // (2 * M) for m in range(M + 1)]  # round(m N / M), halves upwards
    if kind == "last":
        return [0] + [m + N - M for m in range(1, M + 1)]
    raise ValueError(f'layer map {kind!r}: expected "uniform" or "last"')


@contextmanager
def capture(model, blocks=None):
    """Keep what these blocks compute in the forward passes inside `with`; gradients flow through what is kept.

        with capture(student, [0, 2]) as inner:
            logits = student(input_ids, attention_mask)
        inner["hidden"][2], inner["query"][2], inner["key"][2], inner["value"][2]     # each (B, T, width)
        inner["hidden"][0]                                                            # the embeddings

    blocks: numbers as in layer_map, None: all    inner: kind -> block -> tensor of the latest forward pass
    An encoder's last block answers for the first token alone, which is all that the head reads. Inside `with` it
    answers for all of them, so that its queries and hidden states are there too: 1/depth more work, the same
    logits. Remember that nobody has used these answers since pre-training, and in a teacher that was trained from
    scratch nobody ever did. For the last block, the first token (`[:, :1]`, of the mask too), or the keys and
    values, say more; or learn from the block before it.
    """
    depth = len(model.layers)
    blocks = sorted(range(depth + 1) if blocks is None else set(blocks))
    if blocks and not 0 <= blocks[0] <= blocks[-1] <= depth:
        raise ValueError(f"blocks {blocks}: this model has the blocks 1 to {depth}, and 0 for its embeddings")
    inner = {"hidden": {}, "query": {}, "key": {}, "value": {}}

    def keep(kind, block):
        def hook(module, inputs, output):
            inner[kind][block] = output
        return hook

    def for_all_tokens(layer, inputs, options):
        return inputs, options | {"first_only": False}

    handles = []
    try:
        for block in blocks:
            module = model.layers[block - 1] if block else model.embeddings
            handles.append(module.register_forward_hook(keep("hidden", block)))
            for kind in ("query", "key", "value") if block else ():
                handles.append(getattr(module.attention, kind).register_forward_hook(keep(kind, block)))
        if depth in blocks:
            handles.append(model.layers[-1].register_forward_pre_hook(for_all_tokens, with_kwargs=True))
        yield inner
    finally:
        for handle in handles:
            handle.remove()


# ---------------------------------------------------------------------------------------------------------
# 4. Several teachers:  logits (K teachers, N texts, C labels)
# ---------------------------------------------------------------------------------------------------------

def calibrate_temperature(logits, labels, lowest=0.05, highest=20.0):
    """The T with the lowest cross-entropy of softmax(logits / T) on labelled validation texts (Guo et al. 2017,
    arXiv:1706.04599, section 4.2): logits / T are as sure as they are right, and T changes no decision.

    Without it, the over-confident teacher wins every average. Cross-entropy is convex in b = 1/T, so bisection
    finds where its slope is 0: where the logits that softmax(b logits) expects are, on average, those of the labels.

        dCE/db = mean (sum_c softmax(b logits)_c logits_c - logits_label)

    A teacher without a mistake would be given T = 0, one that is worse than dice T = infinity: hence the bounds.
    """
    logits = logits.double()
    gold = logits.gather(1, labels[:, None]).mean()
    low, high = 1 / highest, 1 / lowest
    for _ in range(60):
        b = math.sqrt(low * high)
        slope = (F.softmax(b * logits, dim=-1) * logits).sum(dim=-1).mean() - gold
        low, high = (low, b) if slope > 0 else (b, high)
    return 1 / math.sqrt(low * high)


def given_weights(weights, num_teachers):
    """One number a teacher, scaled to sum 1: (K,). [1] * K is the plain mean."""
    weights = torch.as_tensor(weights, dtype=torch.float64)
    if weights.shape != (num_teachers,):
        raise ValueError(f"{weights.numel()} weights for {num_teachers} teachers: give one for each")
    if not weights.isfinite().all() or (weights < 0).any() or weights.sum() == 0:
        raise ValueError(f"teacher weights {weights.tolist()}: each must be 0 or more, and one above 0")
    return (weights / weights.sum()).float()


def validation_weights(logits, labels, steps=1000):
    """The weights (K,) with which the teachers' mean has the lowest cross-entropy on labelled validation texts.

    A mixture whose components are given, so two lines of EM (Dempster et al. 1977), which never make it worse:

        share[k, n] = w_k p_k(label n) / sum_j w_j p_j(label n)      how much of text n is teacher k's merit?
        w_k         = mean over n of share[k, n]

    logits: calibrated, of texts that no teacher was trained on.
    """
    log_probs = F.log_softmax(logits.double(), dim=-1)
    log_gold = log_probs.gather(2, labels.expand(len(logits), -1)[..., None])[..., 0]  # (K, N)
    weights = torch.full((len(logits),), 1 / len(logits), dtype=torch.float64, device=logits.device)
    for _ in range(steps):
        before = weights
        weights = F.softmax(weights.log()[:, None] + log_gold, dim=0).mean(dim=1)
        if (weights - before).abs().max() < 1e-9:
            break
    return weights.float()


def entropy_weights(logits):
    """For each text, more weight for the teacher that is surer: w_k = (1 - H_k / sum_j H_j) / (K - 1), (K, N).

    H_k: the entropy of teacher k's probabilities (Kwon et al. 2020, "Adaptive knowledge distillation based on
    entropy"). No label is needed. It believes whoever sounds sure: calibrate first.
    """
    K = len(logits)
    if K == 1:
        return torch.ones(logits.shape[:2], device=logits.device)
    log_probs = F.log_softmax(logits.float(), dim=-1)
    entropy = -(log_probs.exp() * log_probs).sum(dim=-1)
    total = entropy.sum(dim=0)
    # No entropy at all, every teacher is perfectly sure: equal shares instead of 0 / 0.
    share = torch.where(total > 0, entropy / total.clamp_min(torch.finfo(total.dtype).tiny), 1 / K)
    return (1 - share) / (K - 1)


def confidence_weights(logits, labels):
    """For each text, more weight for the teacher that is nearer to its label: w_k = (1 - softmax_k(CE_k)) / (K - 1).

    CE_k: the cross-entropy of teacher k on this text (CA-MKD, Zhang et al. 2022, arXiv:2201.00007).
    A text without a label (-1) gets its entropy_weights. (K, N), sum 1 over K; no teacher can get more than
    1 / (K - 1), so with two of them one may get all, with more none does.
    """
    K = len(logits)
    if K == 1:
        return torch.ones(logits.shape[:2], device=logits.device)
    log_probs = F.log_softmax(logits.float(), dim=-1)
    gold = labels.clamp_min(0).expand(K, -1)[..., None]
    cross_entropy = -log_probs.gather(2, gold)[..., 0]
    weights = (1 - F.softmax(cross_entropy, dim=0)) / (K - 1)
    return torch.where(labels < 0, entropy_weights(logits), weights)


def combine_teachers(logits, weights, temperature):
    """Logits (N, C) of one teacher that stands for all K, for a student that is trained at this temperature:

        softmax(combined / T) = sum_k w_k softmax(logits_k / T)

    Each teacher is softened first and then averaged, because then KL to the average differs from the average of
    the K Hinton losses by a number that does not depend on the student: the same gradients (You et al. 2017; CA-MKD).
    Mean, never sum: K summed losses would drown the labels, so weights must sum to 1.

    logits: (K, N, C), each teacher's divided by its calibrate_temperature    weights: (K,) or (K, N)
    temperature math.inf: the weighted mean of the centred logits, which is the same thing for logit_mse_loss.
    """
    if len(logits) == 1:
        return logits[0]
    weights = weights.to(logits).view(len(logits), -1, 1)
    if (weights < 0).any() or (weights.sum(dim=0) - 1).abs().max() > 1e-4:
        raise ValueError("the weights of the teachers must be 0 or more and sum to 1 for every text")
    if math.isinf(temperature):
        return (weights * centred(logits)).sum(dim=0)
    log_probs = F.log_softmax(logits / temperature, dim=-1)
    return temperature * (weights.log() + log_probs).logsumexp(dim=0)


# ---------------------------------------------------------------------------------------------------------
# 5. A narrower table
# ---------------------------------------------------------------------------------------------------------

def svd_table(table, width):
    """The embeddings of a narrower student: table (V, d) -> (V, width), and the projection (d, width) between them.

    With table = U S W^T, projection = the first `width` columns of W, and table @ projection = U S without the rest:
    of all tables of this rank, narrow @ projection^T is the nearest to the teacher's (Eckart and Young 1936).
    Not centred, unlike PCA, so scalar products are kept as well as they can be. Project positions and token types
    with the same matrix, because the encoder adds them to the words; its transpose is a good start for the weight
    of hidden_loss's projection.
    """
    if not 1 <= width <= table.shape[1]:
        raise ValueError(f"a table of width {table.shape[1]} cannot be narrowed to {width}")
    table = table.detach()
    # W: the eigenvectors of table^T table, which is d x d however many rows the table has.
    _, vectors = torch.linalg.eigh(table.double().T @ table.double())  # eigenvalues in rising order
    projection = vectors.flip(1)[:, :width].to(table.dtype).contiguous()
    return table @ projection, projection
