"""AdamW with 8-bit states: bitsandbytes' codes and trajectory, its memory, its state_dict, and its paged form."""

import copy

import pytest
import torch
from torch import nn

from pocketbert import cli
from pocketbert.errors import UserError
from pocketbert.models.encoder import Encoder
from pocketbert.models.stored import lookup
from pocketbert.quantization.blockwise import (
    code_cells,
    dequantize_blocks,
    dynamic_map,
    midpoints,
    nearest,
    nearest_by_cells,
    quantize_blocks,
)
from pocketbert.training import adamw8bit
from pocketbert.training.adamw8bit import AdamW8bit, PagedAdamW8bit
from pocketbert.training.optim import OPTIMIZERS, check_optimizer, parameter_groups, warmup_then_decay
from small_models import small_config

SIZE = 5000  # above the limit of 4,096, and no multiple of the block


@pytest.fixture(scope="module")
def bnb():
    return pytest.importorskip("bitsandbytes")


def gradients(steps, shape=(SIZE,), seed=0, decades=4):
    """Every number has a size of its own, and the sizes span so many orders of magnitude."""
    generator = torch.Generator().manual_seed(seed)
    sizes = 10 ** (-decades * torch.rand(shape, generator=generator))
    return [sizes * torch.randn(shape, generator=generator) for _ in range(steps)]


def trained(make, steps=20, weights=None, decades=4):
    """(weights, optimizer) after some steps with the same gradients each time."""
    param = nn.Parameter(torch.linspace(-1, 1, SIZE) if weights is None else weights)
    optimizer = make([param])
    for gradient in gradients(steps, param.shape, decades=decades):
        param.grad = gradient.to(param)
        optimizer.step()
    return param.detach(), optimizer


# ---- the code ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("signed", [True, False])
def test_the_code_book_is_bitsandbytes(signed, bnb):
    assert torch.equal(dynamic_map(signed), bnb.functional.create_dynamic_map(signed=signed))


@pytest.mark.parametrize("signed", [True, False])
def test_cells_find_the_same_codes_as_the_search_also_at_and_beside_every_midpoint(signed):
    book = dynamic_map(signed)
    middles = midpoints(book)
    random = torch.rand(100_000) ** 5 * torch.tensor([1.0, -1.0]).repeat(50_000)
    beside = [torch.nextafter(middles, torch.full_like(middles, end)) for end in (-2, 2)]
    values = torch.cat([random, book, middles, *beside, torch.tensor([0.0, -0.0, 1e-45, -1e-45, 1.0, -1.0])])
    assert torch.equal(nearest_by_cells(values, *code_cells(book)), nearest(values, book))


def test_a_book_that_is_too_fine_for_cells_is_refused():
    with pytest.raises(ValueError, match="two midpoints"):
        code_cells(torch.linspace(0.9, 1, 256))


@pytest.mark.parametrize("signed", [True, False])
def test_blocks_are_those_of_bitsandbytes(signed, bnb):
    [values] = gradients(1)
    values[:256] = 0
    values = values if signed else values.square()
    book = dynamic_map(signed)
    codes, absmax = quantize_blocks(values, book, 256, code_cells(book))
    theirs, state = bnb.functional.quantize_blockwise(values, code=book, blocksize=256)
    assert torch.equal(absmax, state.absmax)
    assert torch.equal(dequantize_blocks(theirs, absmax, book, 256),
                       bnb.functional.dequantize_blockwise(theirs, state))
    # On CPUs bitsandbytes looks codes up in a table of 65,536 steps, so it may miss the nearest number by a step.
    scaled = values / absmax.repeat_interleave(256)[:SIZE].clamp(min=1e-38)
    off = (lookup(book, theirs) - scaled).abs() - (lookup(book, codes) - scaled).abs()
    assert off[256:].max() < 2 ** -15  # the first block is 0, and any code times 0 is 0
    assert (codes == theirs)[scaled.abs() > 0.01].float().mean() > 0.98


@pytest.mark.parametrize("signed, share", [(True, 0.15), (False, 0.08)])
def test_the_error_of_a_stored_moment_is_bounded_down_to_a_hundredth_of_the_largest(signed, share):
    [values] = gradients(1)
    values = values if signed else values.square()
    book = dynamic_map(signed)
    codes, absmax = quantize_blocks(values, book, 256)
    error = (dequantize_blocks(codes, absmax, book, 256) - values).abs()
    large = values.abs() > 0.01 * absmax.repeat_interleave(256)[:SIZE]
    assert (error[large] <= share * values[large].abs()).all() and large.sum() > 500


# ---- the steps ---------------------------------------------------------------------------------------------

def test_the_weights_follow_those_of_bitsandbytes(bnb):
    settings = {"lr": 1e-2, "weight_decay": 0.1, "betas": (0.9, 0.99)}
    ours, _ = trained(lambda params: AdamW8bit(params, **settings), decades=1)
    theirs, _ = trained(lambda params: bnb.optim.AdamW8bit(params, **settings), decades=1)
    exact, _ = trained(lambda params: torch.optim.AdamW(params, **settings), decades=1)
    rounding = (theirs - exact).abs().mean()
    assert (ours - theirs).abs().mean() < 0.1 * rounding
    assert rounding < 0.05 * (exact - torch.linspace(-1, 1, SIZE)).abs().mean()


def test_a_number_that_is_tiny_beside_its_block_is_not_thrown_far_when_its_gradient_is_zero():
    param = nn.Parameter(torch.zeros(20 * 256))
    optimizer = AdamW8bit([param], lr=1e-3)
    for size in (1.0, 0.0):  # with sizes from 1e-5 to 1 in each block
        param.grad = size * 10 ** torch.linspace(-5, 0, 256).repeat(20)
        optimizer.step()
    assert param.abs().max() < 2e-3


def test_small_tensors_have_the_steps_of_adamw_to_the_last_digits():
    start = torch.linspace(-1, 1, 4095)
    settings = {"lr": 1e-2, "weight_decay": 0.1}
    ours, optimizer = trained(lambda params: AdamW8bit(params, **settings), weights=start.clone())
    exact, _ = trained(lambda params: torch.optim.AdamW(params, **settings), weights=start.clone())
    torch.testing.assert_close(ours, exact, atol=1e-6, rtol=0)
    assert optimizer.state_dict()["state"][0]["m"].dtype == torch.float32


def test_parts_change_nothing(monkeypatch):
    whole, _ = trained(AdamW8bit)
    monkeypatch.setattr(adamw8bit, "PART", 512)
    parts, _ = trained(AdamW8bit)
    assert torch.equal(whole, parts)


def test_a_weight_without_gradient_stays_where_it_is():
    param = nn.Parameter(torch.ones(SIZE))
    optimizer = AdamW8bit([param], weight_decay=0.0)
    for gradient in gradients(5):
        gradient[100:400] = 0
        param.grad = gradient
        optimizer.step()
    assert (param[100:400] == 1).all() and not (param[:100] == 1).any()


def test_weights_in_bfloat16_are_trained_with_states_of_their_own_type():
    param, optimizer = trained(lambda params: AdamW8bit(params, lr=0.1), weights=torch.ones(SIZE).bfloat16())
    assert param.dtype == torch.bfloat16 and (param - 1).abs().mean() > 0.1
    assert optimizer.state_dict()["state"][0]["m_absmax"].dtype == torch.float32


def test_closure_groups_and_scheduler_work_as_in_torch():
    params = [nn.Parameter(torch.ones(SIZE)), nn.Parameter(torch.ones(3))]
    optimizer = AdamW8bit([{"params": params[:1], "lr": 0.1}, {"params": params[1:], "lr": 0.2}])
    scheduler = warmup_then_decay(optimizer, num_steps=2, warmup=0.0)

    def closure():
        optimizer.zero_grad()
        loss = sum(param.square().sum() for param in params)
        loss.backward()
        return loss
    assert optimizer.step(closure) == SIZE + 3
    scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == [0.05, 0.1]
    assert params[0][0].item() == pytest.approx(0.9, abs=2e-3) and params[1][0].item() == pytest.approx(0.8, abs=3e-3)


# ---- the states --------------------------------------------------------------------------------------------

@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_training_goes_on_bit_for_bit_from_a_saved_state(dtype, tmp_path):
    param, optimizer = trained(AdamW8bit, weights=torch.linspace(-1, 1, SIZE).to(dtype))
    torch.save(optimizer.state_dict(), tmp_path / "state")
    copied = nn.Parameter(param.clone())
    second = AdamW8bit([copied], lr=9.0)
    second.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    assert second.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]
    assert second.state[copied]["m_codes"].dtype == torch.uint8 and second.state[copied]["step"] == 20
    original = optimizer.param_groups[0]["params"][0]
    for gradient in gradients(3, seed=1):
        for one, steps in ((original, optimizer), (copied, second)):
            one.grad = gradient.to(one)
            steps.step()
    assert torch.equal(original, copied)
    for name, tensor in optimizer.state[original].items():
        assert name == "step" or torch.equal(tensor, second.state[copied][name])


def test_a_loaded_state_is_a_copy():
    _, optimizer = trained(AdamW8bit)
    saved = optimizer.state_dict()
    before = copy.deepcopy(saved["state"])
    param = nn.Parameter(torch.zeros(SIZE))
    second = AdamW8bit([param])
    second.load_state_dict(saved)
    param.grad = torch.ones(SIZE)
    second.step()
    assert torch.equal(saved["state"][0]["m_codes"], before[0]["m_codes"])


def test_states_of_minilm_take_at_most_27_percent_of_adamws():
    with torch.device("meta"):
        model = Encoder(small_config(layers=6, heads=12, neurons=1536, vocab_size=30522, hidden_size=384, head_size=32,
                                     max_position_embeddings=512))
    optimizer = AdamW8bit(parameter_groups(model, 0.01))
    num_bytes = 0
    for group in optimizer.param_groups:
        for param in group["params"]:
            num_bytes += sum(state.nbytes for state in optimizer.new_state(param).values() if torch.is_tensor(state))
    assert num_bytes < 0.27 * 8 * sum(param.numel() for param in model.parameters())


# ---- paged -------------------------------------------------------------------------------------------------

def test_paged_states_stay_on_the_host_and_give_the_same_weights(monkeypatch):
    """On a CPU, with stand-ins: host memory is not pinned, and what is brought in is another copy."""
    brought = []

    def bring(states, device):
        brought.append(states.numel())
        return states.clone()
    monkeypatch.setattr(adamw8bit, "bring", bring)
    monkeypatch.setattr(adamw8bit, "PART", 1024)
    monkeypatch.setattr(PagedAdamW8bit, "zeros", lambda self, size, dtype, device: torch.zeros(size, dtype=dtype))
    monkeypatch.setattr("torch.cuda.synchronize", lambda: None)
    paged, optimizer = trained(PagedAdamW8bit)
    assert max(brought) == 1024 and sum(brought) == 20 * 2 * (SIZE + 20)
    monkeypatch.undo()
    unpaged, other = trained(AdamW8bit)
    assert torch.equal(paged, unpaged)
    for name, tensor in other.state_dict()["state"][0].items():
        assert name == "step" or torch.equal(tensor, optimizer.state[optimizer.param_groups[0]["params"][0]][name])


def test_paging_is_refused_where_there_is_no_gpu():
    with pytest.raises(UserError, match="on cpu they stay in one memory: take --optimizer adamw8bit"):
        check_optimizer("paged-adamw8bit", torch.device("cpu"))
    check_optimizer("paged-adamw8bit", torch.device("cuda"))
    check_optimizer("adamw8bit", torch.device("cpu"))


def test_every_choice_of_the_flag_is_an_optimizer():
    assert list(cli.OPTIMIZERS | cli.ROW_ADAMW) == list(OPTIMIZERS)
