"""Losses on the inner tensors of two encoders: hidden states, attention scores, relations of Q, K and V.

The logits say what the teacher answers; the inner tensors say how it arrives there. They are compared token by token,
so the student must use the teacher's tokenizer.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from pocketbert.errors import UserError
from pocketbert.models.hooks import record_outputs
from pocketbert.models.masks import full_mask


def check_tokens(student, teacher, attention_mask):
    """All three must be of the same (texts, tokens)."""
    student = tuple(student.shape[:2])
    teacher = tuple(teacher.shape[:2])
    mask = tuple(attention_mask.shape[:2])
    if not student == teacher == mask:
        raise ValueError(f"(texts, tokens) differ: student {student}, teacher {teacher}, attention_mask {mask}; hidden "
                         "states, attention and relations need a student with the teacher's tokenizer, on one batch")


def hidden_loss(student_hidden, teacher_hidden, attention_mask, projection=None):
    """mean (student W - teacher)^2 over real tokens and the teacher's width (TinyBERT, arXiv:1909.10351).

    student_hidden: (B, T, student width)    teacher_hidden: (B, T, teacher width)    attention_mask: (B, T)
    projection: the matrix W, an nn.Linear(student width, teacher width) that is trained with the student and is not
    part of the saved model; None where the widths are equal.
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
    """Q K^T / sqrt(head_size), before the softmax.

    query: (B, Q, heads * head_size)    key: (B, T, heads * head_size)    -> (B, heads, Q, T)
    """
    q = query.unflatten(-1, (num_heads, -1)).transpose(1, 2)
    k = key.unflatten(-1, (num_heads, -1)).transpose(1, 2)
    return q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])


def attention_loss(student_scores, teacher_scores, attention_mask):
    """mean (student - teacher)^2 of the attention scores before the softmax (TinyBERT, arXiv:1909.10351).

    student_scores: (B, student heads, Q, T)    teacher_scores: (B, teacher heads, Q, T)    attention_mask: (B, T)
    Q: the first Q of the T tokens. Only pairs of two real tokens count. With equal numbers of heads, head i is compared
    with head i. With different numbers the means over the heads are compared, which is a weaker signal; relation_loss
    does not have this problem.
    """
    num_queries = student_scores.shape[2]
    check_tokens(student_scores[:, 0], teacher_scores[:, 0], attention_mask[:, :num_queries])
    teacher_scores = teacher_scores.detach()
    if student_scores.shape[1] != teacher_scores.shape[1]:
        student_scores = student_scores.mean(dim=1, keepdim=True)
        teacher_scores = teacher_scores.mean(dim=1, keepdim=True)
    real = attention_mask.bool()
    pairs = real[:, :num_queries, None] & real[:, None, :]  # (B, Q, T)
    return F.mse_loss(student_scores.movedim(1, -1)[pairs], teacher_scores.movedim(1, -1)[pairs])


def log_relations(x, attention_mask, num_relation_heads):
    """log softmax(Y Y^T / sqrt(d)) for each relation head: (B, T, width) -> (B, relation heads, T, T).

    Y is one of num_relation_heads slices of x, each d = width / num_relation_heads wide. Row t is a distribution over
    the tokens that are similar to token t. Padding tokens get probability 0.
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
    x is the output of one of the matrices query, key and value, all heads side by side; the paper adds the three losses
    of one block, with more relation heads (48 for a base model) than there are attention heads. A relation is T x T,
    whatever the width and the number of heads, so no projection is needed. Nats per row.
    """
    check_tokens(student_x, teacher_x, attention_mask)
    student = log_relations(student_x, attention_mask, num_relation_heads)
    teacher = log_relations(teacher_x.detach(), attention_mask, num_relation_heads)
    rows = F.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=-1)  # (B, relation heads, T)
    return rows.transpose(1, 2)[attention_mask.bool()].mean()


def layer_map(student_depth, teacher_depth):
    """[g(0), g(1), ..., g(M)]: block m of a student with M blocks learns from block g(m) of a teacher with N.

    Block 0 is the embeddings, and block m is model.layers[m - 1], as in TinyBERT (arXiv:1909.10351, section 3.1). The
    map is uniform, g(m) = m N / M rounded to the nearest (halves upwards), so g(0) = 0 and g(M) = N.
    """
    M = student_depth
    N = teacher_depth
    if not 1 <= M <= N:
        raise UserError(f"a student with {M} blocks cannot be mapped into a teacher with {N}: it must have 1 to {N}")
    return [(2 * m * N + M) // (2 * M) for m in range(M + 1)]


@dataclass
class InnerWeights:
    """How much each inner loss counts; 0 leaves it out."""

    hidden: float = 0.0
    attention: float = 0.0
    relations: float = 0.0
    relation_heads: int | None = None  # None: as many as the teacher has attention heads

    def any(self):
        return self.hidden > 0 or self.attention > 0 or self.relations > 0


class InnerLosses(nn.Module):
    """The weighted sum of the inner losses between a student and one teacher, over the blocks of layer_map.

        hidden * MSE of hidden states + attention * MSE of attention scores + relations * KL of Q, K and V relations

    Its only parameters are those of `projection`, from the student's width to the teacher's where they differ. They are
    trained with the student and are not saved. Neither model is kept here.
    """

    def __init__(self, student, teacher, weights):
        super().__init__()
        self.weights = weights
        self.mapping = layer_map(len(student.layers), len(teacher.layers))
        self.relation_heads = weights.relation_heads or teacher.layers[-1].attention.num_heads
        if weights.relations:
            check_relation_heads(self.relation_heads, student, teacher)
        student_width = student.config.hidden_size
        teacher_width = teacher.config.hidden_size
        self.projection = None
        if weights.hidden and student_width != teacher_width:
            self.projection = nn.Linear(student_width, teacher_width, bias=False)

    def forward(self, student, teacher, batch):
        """(student logits (B, num_labels), the sum of the inner losses) of one batch of token ids."""
        mask = batch.attention_mask
        # all_tokens: otherwise the last block computes queries and hidden states for the first token alone.
        with record_outputs(student) as ours:
            logits = student(batch.input_ids, mask, all_tokens=True)
        mask = full_mask(batch.input_ids, mask)
        with torch.no_grad(), record_outputs(teacher, self.mapping) as theirs:
            teacher(batch.input_ids, mask, all_tokens=True)

        loss = 0.0
        for student_block, teacher_block in enumerate(self.mapping):
            # In the last block only the first token's output reaches the classification head. The outputs of the
            # other tokens are untrained there and are not compared.
            read = slice(1 if teacher_block == len(teacher.layers) else None)
            if self.weights.hidden:
                loss += self.weights.hidden * hidden_loss(ours["hidden"][student_block][:, read],
                                                          theirs["hidden"][teacher_block][:, read],
                                                          mask[:, read], self.projection)
            if self.weights.attention and student_block > 0:  # the embeddings have no attention
                loss += self.weights.attention * attention_loss(
                    scores_of_block(student, ours, student_block, read),
                    scores_of_block(teacher, theirs, teacher_block, read), mask)
        if self.weights.relations:
            loss += self.weights.relations * self.last_block_relations(ours, theirs, mask)
        return logits, loss

    def last_block_relations(self, ours, theirs, mask):
        """The mean relation loss of query, key and value in the last block, as in MiniLM (arXiv:2002.10957)."""
        student_block = len(self.mapping) - 1
        teacher_block = self.mapping[-1]
        losses = [relation_loss(ours[kind][student_block], theirs[kind][teacher_block], mask, self.relation_heads)
                  for kind in ("query", "key", "value")]
        return sum(losses) / 3


def scores_of_block(model, outputs, block, read):
    """The attention scores (B, heads, Q, T) of a block whose outputs were recorded, for the queries in `read`."""
    num_heads = model.layers[block - 1].attention.num_heads
    return attention_scores(outputs["query"][block][:, read], outputs["key"][block], num_heads)


def check_relation_heads(relation_heads, *models):
    for model in models:
        width = model.layers[-1].attention.query.out_features
        if width % relation_heads:
            raise UserError(f"--relation-heads {relation_heads} does not divide {width}, the width of a query: "
                            "give a number that divides the student's and the teacher's")
