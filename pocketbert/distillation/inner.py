"""Losses on inner tensors: hidden states, attention scores, relations of Q, K and V."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from pocketbert.errors import UserError
from pocketbert.models.hooks import record_outputs


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


def compares_layers(args):
    return bool(args.hidden or args.attention or args.relations)


class InnerLosses(nn.Module):
    """What the student's layers should have in common with the first teacher's, layer by layer.

    mapping: student block -> teacher block (see layer_map). The projections of hidden states, where widths differ,
    are trained with the student and thrown away. In the teacher's last block the head reads the first token alone,
    and what the others answer there is nobody's: hidden states and attention compare the first token's.
    """

    def __init__(self, student, teacher, args):
        super().__init__()
        self.heads = args.relation_heads or teacher.layers[-1].attention.num_heads
        for model in (student, teacher) if args.relations else ():
            if model.layers[-1].attention.query.out_features % self.heads:
                raise UserError(f"--relation-heads {self.heads} does not divide the "
                                 f"{model.layers[-1].attention.query.out_features} numbers of a query: give another")
        self.args, self.teacher = args, [teacher]  # in a list: its weights are not ours to train or to save
        self.mapping = dict(enumerate(layer_map(len(student.layers), len(teacher.layers), args.layer_map)))
        widths = student.config.hidden_size, teacher.config.hidden_size
        self.projection = nn.Linear(*widths, bias=False) if args.hidden and widths[0] != widths[1] else None

    def listen(self, student):
        return record_outputs(student, list(self.mapping))

    def forward(self, student, inner, batch):
        """hidden * MSE of hidden states + attention * MSE of attention scores + relations * KL of Q, K, V relations."""
        teacher, args, loss = self.teacher[0], self.args, 0.0
        mask = torch.ones_like(batch.input_ids) if batch.attention_mask is None else batch.attention_mask
        with torch.no_grad(), record_outputs(teacher, list(self.mapping.values())) as wanted:
            teacher(batch.input_ids, mask)
        for ours, theirs in self.mapping.items():
            read = slice(1 if theirs == len(teacher.layers) else None)  # the tokens whose answers somebody reads
            if args.hidden:
                hidden = inner["hidden"][ours][:, read], wanted["hidden"][theirs][:, read]
                loss += args.hidden * hidden_loss(*hidden, mask[:, read], self.projection)
            if args.attention and ours:  # block 0 is the embeddings
                a, b = (attention_scores(block["query"][i][:, read], block["key"][i],
                                         model.layers[i - 1].attention.num_heads)
                        for block, i, model in ((inner, ours, student), (wanted, theirs, teacher)))
                loss += args.attention * attention_loss(a, b, mask)
        if args.relations:  # MiniLM: the last mapped block alone
            ours, theirs = list(self.mapping.items())[-1]
            loss += args.relations * sum(relation_loss(inner[kind][ours], wanted[kind][theirs], mask,
                                                       self.heads) for kind in ("query", "key", "value")) / 3
        return loss
