"""xLSTM: the parallel form equals the recurrent one and the paper's sums, and no gate overflows."""

import math

import pytest
import torch
import torch.nn.functional as F

from pocketbert.models.xlstm import mlstm_parallel, slstm
from small_models import assert_finite, assert_same_values_and_gradients, doubles


def mlstm_recurrent(q, k, v, i, f, state=None):
    """The same, token by token: a matrix C that maps keys to values is read and written once a token.

        m_t = max(log f_t + m_{t-1}, i_t),    f' = exp(log f_t + m_{t-1} - m_t),    i' = exp(i_t - m_t)
        C_t = f' C_{t-1} + i' k_t v_t^T,      n_t = f' n_{t-1} + i' k_t
        h_t = q_t C_t / max(|q_t . n_t|, exp(-m_t))

    Shapes as in mlstm_parallel. Returns (h, state). state: (C, n, m) of each text, (B, heads, d, d), (B, heads, d)
    and (B, heads), to go on from with the text's next piece; None at its start.
    """
    log_f, k = F.logsigmoid(f), k / math.sqrt(q.shape[-1])
    if state is None:
        n = torch.zeros_like(q[:, :, 0])
        state = n[..., None] * v[:, :, 0, None, :], n, torch.full_like(i[:, :, 0], -math.inf)
    memory, n, m = state
    outputs = []
    for t in range(q.shape[2]):
        m_before, m = m, torch.maximum(log_f[..., t] + m, i[..., t]).detach()
        keep, write = torch.exp(log_f[..., t] + m_before - m)[..., None], torch.exp(i[..., t] - m)[..., None]
        memory = keep[..., None] * memory + (write * k[:, :, t])[..., None] * v[:, :, t, None, :]
        n = keep * n + write * k[:, :, t]
        total = (q[:, :, t] * n).sum(dim=-1, keepdim=True).abs()
        outputs.append((q[:, :, t, None, :] @ memory)[:, :, 0] / torch.maximum(total, torch.exp(-m[..., None])))
    return torch.stack(outputs, dim=2), (memory, n, m)


def mlstm_inputs(gates=None, T=11):
    torch.manual_seed(0)
    q, k, v, i, f = *(doubles(2, 3, T, 4) for _ in range(3)), doubles(2, 3, T), doubles(2, 3, T, scale=2)
    if gates:
        i, f = (gates * torch.randint(-1, 2, (2, 3, T)).double().requires_grad_() + x for x in (i, f))
    return [q, k, v, i, f]


@pytest.mark.parametrize("gates", [None, 50, 200])
def test_mlstm_parallel_equals_recurrent_also_at_extreme_gates(gates):
    inputs = [x.detach().requires_grad_() for x in mlstm_inputs(gates)]
    assert_same_values_and_gradients(mlstm_parallel, lambda *x: mlstm_recurrent(*x)[0], inputs)


def test_mlstm_equals_the_formulas_of_the_paper_without_stabiliser():
    q, k, v, i, f = mlstm_inputs()
    memory, n, outputs = torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4), []
    for t in range(q.shape[2]):
        keep, write, key = f[..., t].sigmoid()[..., None], i[..., t].exp()[..., None], k[:, :, t] / 2  # sqrt(4)
        memory = keep[..., None] * memory + write[..., None] * torch.einsum("bhv,bhk->bhvk", v[:, :, t], key)
        n = keep * n + write * key
        total = torch.einsum("bhk,bhk->bh", n, q[:, :, t]).abs().clamp(min=1)
        outputs.append(torch.einsum("bhvk,bhk->bhv", memory, q[:, :, t]) / total[..., None])
    torch.testing.assert_close(mlstm_parallel(q, k, v, i, f), torch.stack(outputs, dim=2))


def test_mlstm_of_a_text_in_pieces_equals_the_text_at_once():
    inputs = mlstm_inputs()
    state = None
    pieces = []
    for start, end in ((0, 4), (4, 5), (5, 11)):
        piece, state = mlstm_recurrent(*(x[:, :, start:end] for x in inputs), state)
        pieces.append(piece)
    torch.testing.assert_close(torch.cat(pieces, dim=2), mlstm_parallel(*inputs))


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def test_slstm_equals_two_steps_by_hand():
    x = torch.tensor([[0.3, -0.2, 1.1, 0.7], [-0.9, 0.4, -0.6, 0.1]])  # two tokens: z, i, f, o
    R = [0.5, -1.2, 0.8, 0.3]
    c = math.exp(-0.2) * math.tanh(0.3)  # nothing to forget yet
    h1 = sigmoid(0.7) * c / math.exp(-0.2)
    z, i, f, o = (a + h1 * r for a, r in zip([-0.9, 0.4, -0.6, 0.1], R, strict=True))
    c, n = sigmoid(f) * c + math.exp(i) * math.tanh(z), sigmoid(f) * math.exp(-0.2) + math.exp(i)
    ours = slstm(x.view(1, 2, 4, 1, 1), torch.tensor(R).view(1, 1, 4))
    torch.testing.assert_close(ours.flatten(), torch.tensor([h1, sigmoid(o) * c / n]))


def test_slstm_heads_do_not_see_each_other():
    torch.manual_seed(0)
    x, R = torch.randn(2, 6, 4, 3, 5), torch.randn(3, 5, 20)
    together = slstm(x, R)
    for head in range(3):
        alone = slstm(x[:, :, :, head:head + 1], R[head:head + 1])
        torch.testing.assert_close(together[:, :, head:head + 1], alone)


@pytest.mark.parametrize("size", [50, 500])
def test_extreme_gates_give_finite_values_and_gradients_in_float32(size):
    torch.manual_seed(0)
    assert_finite(mlstm_parallel, mlstm_inputs(size))
    assert_finite(slstm, [size * torch.randint(-1, 2, (2, 9, 4, 2, 3)), torch.randn(2, 3, 12)])
