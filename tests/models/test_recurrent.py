"""The models without attention: parallel = recurrent, alone = in a batch, and no overflow whatever the gates say."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pocketbert.models.bag import hash_ngrams
from pocketbert.models.recipes import RECURRENT_DEFAULTS, build_recurrent, parse_recurrent_recipe, start_word_vectors
from pocketbert.models.recurrent import RecurrentClassifier, RecurrentConfig
from pocketbert.models.rwkv import wkv_parallel, wkv_recurrent
from pocketbert.models.sequence import reversed_order
from pocketbert.models.stored import format_class, replace_module, replace_stored_modules
from pocketbert.models.xlstm import mlstm_parallel, mlstm_recurrent, slstm
from pocketbert.training.optim import prepare_for_training
from small_models import LABELS

RECIPES = ["lstm:layers=2,embedding=6,hidden=8", "gru:layers=2,embedding=6,hidden=8",
           "xlstm:layers=2,embedding=6,hidden=8,heads=2", "rwkv:layers=2,embedding=6,hidden=8",
           "bag:ngrams=3,buckets=50,embedding=6,hidden=8,layers=2"]
each_kind = pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.partition(":")[0])


def random_model(recipe, vocab_size=60, seed=0):
    """All numbers far from their starting points, whose zeros and ones would hide mistakes."""
    torch.manual_seed(seed)
    model = build_recurrent(recipe, vocab_size, 0, LABELS)
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return model


def doubles(*shape, scale=1.0):
    return (scale * torch.randn(*shape, dtype=torch.float64)).requires_grad_()


def assert_same_values_and_gradients(one, other, inputs):
    a, b = one(*inputs), other(*inputs)
    torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-9)
    weights = torch.randn_like(a)  # a plain sum could hide errors that cancel
    for g, h in zip(*(torch.autograd.grad((y * weights).sum(), inputs) for y in (a, b)), strict=True):
        torch.testing.assert_close(g, h, atol=1e-8, rtol=1e-7)
        assert g.abs().max() > 0


def assert_finite(function, inputs):
    inputs = [x.detach().float().requires_grad_() for x in inputs]
    y = function(*inputs)
    assert y.isfinite().all()
    assert all(g.isfinite().all() for g in torch.autograd.grad(y.sum(), inputs))


# The cells -----------------------------------------------------------------------------------------------

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


def wkv_inputs(scale=1.0, T=13):
    torch.manual_seed(1)
    return [doubles(2, T, 5, scale=scale), doubles(2, T, 5), doubles(5), doubles(5, scale=scale)]


@pytest.mark.parametrize("T", [1, 2, 8, 13])
@pytest.mark.parametrize("scale", [1, 50])
def test_rwkv_parallel_equals_recurrent(T, scale):
    inputs = wkv_inputs(scale, T)
    if T <= 2:  # one token is its own average: keys, decay and bonus have no say
        torch.testing.assert_close(wkv_parallel(*inputs), wkv_recurrent(*inputs)[0])
    else:
        assert_same_values_and_gradients(wkv_parallel, lambda *x: wkv_recurrent(*x)[0], inputs)


def test_rwkv_equals_the_sums_of_the_paper():
    k, v, decay, bonus = wkv_inputs()
    for t in range(k.shape[1]):
        lags = torch.arange(t - 1, -1, -1)[:, None]  # t-1-s
        weights = torch.cat([k[:, :t] - lags * decay.exp(), (k[:, t] + bonus)[:, None]], dim=1).exp()
        torch.testing.assert_close(wkv_parallel(k, v, decay, bonus)[:, t],
                                   (weights * v[:, :t + 1]).sum(dim=1) / weights.sum(dim=1))


@pytest.mark.parametrize("name", ["mlstm", "wkv"])
def test_text_read_in_pieces_equals_text_read_at_once(name):
    function, axis, inputs = ((mlstm_recurrent, 2, mlstm_inputs()) if name == "mlstm" else
                              (wkv_recurrent, 1, wkv_inputs()))
    tokens, constants = [x for x in inputs if x.dim() > 1], [x for x in inputs if x.dim() == 1]
    whole, state, pieces = function(*inputs)[0], None, []
    for start, end in ((0, 4), (4, 5), (5, whole.shape[axis])):
        piece, state = function(*(x.narrow(axis, start, end - start) for x in tokens), *constants, state)
        pieces.append(piece)
    torch.testing.assert_close(torch.cat(pieces, dim=axis), whole)


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


def test_extreme_gates_and_keys_give_finite_values_and_gradients_in_float32():
    torch.manual_seed(0)
    for size in (50, 500):
        inputs = mlstm_inputs(size)
        assert_finite(mlstm_parallel, inputs)
        assert_finite(lambda *x: mlstm_recurrent(*x)[0], inputs)
        inputs = [size * torch.randint(-1, 2, (2, 9, 5)), torch.randn(2, 9, 5), torch.randn(5), torch.full((5,), size)]
        assert_finite(wkv_parallel, inputs)
        assert_finite(lambda *x: wkv_recurrent(*x)[0], inputs)
        assert_finite(slstm, [size * torch.randint(-1, 2, (2, 9, 4, 2, 3)), torch.randn(2, 3, 12)])


# The models ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("kind", ["lstm", "gru"])
@pytest.mark.parametrize("depth", [1, 2])
def test_two_directions_equal_torchs_bidirectional_module_on_each_text_alone(kind, depth, padded_batch):
    model = random_model(f"{kind}:embedding=6,hidden=8,layers={depth}")
    reference = {"lstm": nn.LSTM, "gru": nn.GRU}[kind](6, 8, depth, bidirectional=True, batch_first=True)
    reference.load_state_dict({
        name.replace("_l0", f"_l{i}") + suffix: tensor for i, layer in enumerate(model.layers)
        for suffix, rnn in (("", layer.forwards), ("_reverse", layer.backwards))
        for name, tensor in rnn.state_dict().items()})
    for ids, mask, logits in zip(*padded_batch, model(*padded_batch), strict=True):
        states = reference(model.embeddings.word(ids[None, :mask.sum()]))[0][0]
        torch.testing.assert_close(model.head.out(torch.cat([states.mean(dim=0), states.amax(dim=0)])), logits,
                                   atol=1e-6, rtol=1e-5)


def test_bag_equals_a_loop_over_words_and_ngrams(padded_batch):
    model, (input_ids, attention_mask) = random_model("bag:ngrams=3,buckets=50,embedding=6,hidden=8"), padded_batch
    word, ngram = model.embeddings.word.weight, model.embeddings.ngram.weight
    for ids, length, logits in zip(input_ids.tolist(), attention_mask.sum(1), model(*padded_batch), strict=True):
        ids, vectors, dense = ids[:length], [], model.layers[0].linear
        for end in range(1, len(ids) + 1):
            vectors.append(word[ids[end - 1]])
            for n in (n for n in (2, 3) if n <= end):
                row = n
                for token in ids[end - n:end]:
                    row = (row * 2654435761 + token + 1) % (2 ** 31 - 1)
                vectors[-1] = vectors[-1] + ngram[row % 50]
        vector = torch.cat([torch.stack(vectors).mean(dim=0), torch.stack(vectors).amax(dim=0)])
        torch.testing.assert_close(model.head.out(F.relu(dense.weight @ vector + dense.bias)), logits)


def test_words_alone_know_no_order_and_pairs_do():
    one, other = torch.tensor([[5, 6, 7, 8]]), torch.tensor([[5, 7, 6, 8]])
    words, pairs = (random_model(f"bag:ngrams={n},buckets=50,embedding=6,hidden=8") for n in (1, 2))
    torch.testing.assert_close(words(one), words(other))
    assert (pairs(one) - pairs(other)).abs().max() > 1e-3
    assert not hasattr(words.embeddings, "ngram")


def test_ngram_longer_than_a_text_is_no_ngram_of_it():
    model = random_model("bag:ngrams=6,buckets=50,embedding=6,hidden=8")
    together = model(torch.tensor([[5, 6, 7, 8, 9], [5, 6, 7, 0, 0]]), torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]))
    torch.testing.assert_close(model(torch.tensor([[5, 6, 7]])), together[1:])


def test_training_forgets_words_and_ngrams():
    for silent in ("word", "ngram"):
        model = random_model(RECIPES[4]).train()
        prepare_for_training(model, SimpleNamespace(dropout=0.0, freeze=0))
        getattr(model.embeddings, silent).weight.data.zero_()
        model.embeddings.dropout, ids = 0.5, torch.arange(5, 25)[None]
        assert not torch.allclose(model(ids), model(ids))


def test_simple_average_and_dense_16_is_a_recipe():
    model = build_recurrent("bag:ngrams=1,embedding=16,hidden=16", 100, 0, LABELS)
    assert sum(p.numel() for p in model.parameters()) == 100 * 16 + (2 * 16 + 1) * 16 + 17 * 3
    linear = build_recurrent("bag:ngrams=1,embedding=16,layers=0", 100, 0, LABELS)
    words = linear.embeddings.word.weight[[5, 7]]
    both = torch.cat([words.mean(dim=0), words.amax(dim=0)])
    torch.testing.assert_close(linear(torch.tensor([[5, 7]])), linear.head.out(both)[None])


def test_ngram_rows_are_spread_like_dice():
    ids = torch.cartesian_prod(torch.arange(250), torch.arange(250))  # neighbours, where a poor hash has stripes
    filled = len(hash_ngrams(ids, 2, 65536).unique()) / 65536
    assert abs(filled - (1 - math.exp(-62500 / 65536))) < 0.01


@each_kind
def test_text_alone_equals_text_in_a_padded_batch(recipe, padded_batch):
    model, (input_ids, attention_mask) = random_model(recipe), padded_batch
    together = model(input_ids, attention_mask)
    assert together.std(dim=0).min() > 0.01  # texts differ, so that a mix-up shows
    for ids, length, logits in zip(input_ids, attention_mask.sum(1), together, strict=True):
        torch.testing.assert_close(model(ids[None, :length])[0], logits, atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(model(ids[None], (torch.arange(9)[None] < length).long())[0], logits,
                                   atol=1e-6, rtol=1e-6)
    noise = torch.where(attention_mask.bool(), input_ids, torch.randint(5, 60, input_ids.shape))
    torch.testing.assert_close(model(noise, attention_mask), together, atol=1e-6, rtol=1e-6)


@each_kind
def test_order_of_the_batch_does_not_matter(recipe, padded_batch):
    model, order = random_model(recipe), torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(model(*(x[order] for x in padded_batch)), model(*padded_batch)[order],
                               atol=1e-6, rtol=1e-6)


@each_kind
def test_text_of_one_token_has_finite_logits_and_gradients(recipe):
    logits = random_model(recipe)(torch.tensor([[7]]), torch.tensor([[1]]))
    logits.sum().backward()
    assert logits.shape == (1, 3) and logits.isfinite().all()


@each_kind
def test_gradients_reach_every_parameter(recipe, padded_batch):
    model = random_model(recipe).train()
    prepare_for_training(model, SimpleNamespace(dropout=0.1, freeze=0))
    F.cross_entropy(model(*padded_batch), torch.tensor([0, 1, 2, 0])).backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]


@pytest.mark.parametrize("recipe", RECIPES[2:4])
def test_blocks_read_to_the_right_and_to_the_left_in_turn(recipe):
    model, x = random_model(recipe), torch.randn(1, 7, 8, requires_grad=True)
    order = reversed_order(torch.tensor([[True] * 6 + [False]]))
    for layer, first, last in zip(model.layers, (0, 5), (5, 0), strict=True):
        y = layer(x, order)
        sees = [torch.autograd.grad(y[0, t].square().sum(), x, retain_graph=True)[0][0].abs().amax(-1) > 0
                for t in (first, last)]
        assert sees[0].nonzero().flatten().tolist() == [first]  # the first token read knows itself alone,
        assert sees[1].tolist() == [True] * 6 + [False]  # the last one read all of the text and no padding


@each_kind
def test_dropout_and_freeze_flags_work(recipe, padded_batch):
    model = random_model(recipe)
    prepare_for_training(model, SimpleNamespace(dropout=0.0, freeze=1))
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert {"embeddings.word.weight"} | {f"layers.0.{n}" for n, _ in model.layers[0].named_parameters()} <= frozen
    assert not [name for name in frozen if name.startswith(("layers.1", "head"))]
    evaluated = model.eval()(*padded_batch)
    torch.testing.assert_close(model.train()(*padded_batch), evaluated)  # dropout 0: nothing random is left
    assert model.config.to_hf()["hidden_dropout"] == 0.0
    for part in [model.embeddings, model.head] + [model.layers[1]] * (not recipe.startswith("bag")):
        prepare_for_training(model, SimpleNamespace(dropout=0.0, freeze=0))
        for module in part.modules():
            module.dropout = 0.5
        assert not torch.allclose(model(*padded_batch), model(*padded_batch))


@each_kind
def test_bf16_autocast_is_near_float32(recipe, padded_batch):
    model = random_model(recipe)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(*padded_batch)
        logits.sum().backward()
    torch.testing.assert_close(logits.float(), model(*padded_batch), atol=0.1, rtol=0.1)


def order_task(recipe):
    """32 texts of 6 to 9 tokens: is word 5 before word 6?  For the bag: is it there at all?"""
    generator = torch.Generator().manual_seed(0)
    texts, labels = [], []
    for n in range(32):
        text = torch.randint(7, 20, (6 + n % 4,), generator=generator).tolist()
        i, j = sorted(torch.randperm(len(text), generator=generator)[:2].tolist())
        text[i], text[j] = ((5, 6), (6, 5))[n // 4 % 2]
        if recipe.startswith("bag") and n // 4 % 2:
            text[j] = 7
        texts.append(text)
        labels.append(n // 4 % 2)
    lengths = torch.tensor([len(text) for text in texts])
    mask = (torch.arange(9)[None] < lengths[:, None]).long()
    return torch.tensor([text + [0] * (9 - len(text)) for text in texts]), mask, torch.tensor(labels)


@pytest.mark.parametrize("recipe", [
    "lstm:embedding=16,hidden=16", "gru:embedding=16,hidden=16", "xlstm:embedding=16,hidden=16,heads=2,layers=1",
    "xlstm:embedding=16,hidden=16,heads=2", "rwkv:embedding=16,hidden=16", "bag:ngrams=1,embedding=16,hidden=16"])
def test_every_kind_learns_32_texts_by_heart_by_their_order(recipe):
    input_ids, mask, labels = order_task(recipe)
    torch.manual_seed(0)
    model = build_recurrent(recipe, 20, 0, ["before", "after"]).train()
    prepare_for_training(model, SimpleNamespace(dropout=0.0, freeze=0))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(200):
        loss = F.cross_entropy(model(input_ids, mask), labels)
        if loss < 0.02:
            break
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert (model.eval()(input_ids, mask).argmax(-1) == labels).all()


# The folder ----------------------------------------------------------------------------------------------

def rebuild(config, tensors):
    """As load_model does: shapes from config.json on the meta device, numbers from the file."""
    config = RecurrentConfig.from_hf(json.loads(json.dumps(config)))
    with torch.device("meta"):
        model = RecurrentClassifier(config)
        replace_stored_modules(model, config.stored_formats, "config.json")
    model.load_state_dict({name: tensor.clone() for name, tensor in tensors.items()}, strict=True, assign=True)
    return model.eval()


@each_kind
def test_config_and_tensors_rebuild_the_same_model_to_the_bit(recipe, padded_batch):
    model = random_model(recipe)
    model.config.hf, model.config.max_length, model.config.hidden_dropout = {"text_cleaning": "cardiff"}, 77, 0.45
    again = rebuild(model.config.to_hf(), model.state_dict())
    assert torch.equal(again(*padded_batch), model(*padded_batch))
    assert again.config.to_hf() == model.config.to_hf()
    assert (again.config.max_length, again.config.label_names) == (77, LABELS)
    assert again.config.hf["text_cleaning"] == "cardiff" and again.device == torch.device("cpu")


@each_kind
def test_int8_model_is_rebuilt_to_the_bit_and_near_the_float_model(recipe, padded_batch):
    model = random_model(recipe)
    expected = model(*padded_batch)
    for name, module in list(model.named_modules()):
        form = {nn.Linear: "int8_linear", nn.Embedding: "int8_embedding"}.get(type(module))
        if form and not name.startswith("head."):
            replace_module(model, name, format_class(form).from_float(module))
            model.config.stored_formats[name] = form
    assert "embeddings.word" in model.config.stored_formats
    again = rebuild(model.config.to_hf(), model.state_dict())
    assert torch.equal(again(*padded_batch), model(*padded_batch))
    torch.testing.assert_close(again(*padded_batch), expected, atol=0.1, rtol=0.1)


def test_transformers_refuses_the_folder(tmp_path):
    transformers = pytest.importorskip("transformers")
    for recipe in RECIPES:
        (tmp_path / "config.json").write_text(json.dumps(random_model(recipe).config.to_hf()))
        with pytest.raises(ValueError, match="pocketbert-"):
            transformers.AutoConfig.from_pretrained(tmp_path)


@pytest.mark.parametrize("changes, complaint", [
    ({"model_type": "bert"}, "'bert' is not one of pocketbert-lstm"), ({"model_type": "lstm"}, "'lstm' is not one of"),
    ({"model_type": None}, "None is not one of"), ({"hidden_size": None}, "hidden_size missing"),
    ({"hidden_size": 0}, "hidden_size 0"), ({"num_layers": "two"}, "'two'"), ({"vocab_size": [1]}, "list"),
    ({"num_heads": 3}, "not a multiple"), ({"num_layers": 0}, "num_layers 0"), ({"hidden_dropout": 1.5}, "1.5"),
    ({"id2label": {"0": "a", "2": "b"}}, "id2label"), ({"id2label": {}}, "no labels"), ({"id2label": [1]}, "list"),
    ({"stored_forms": 3}, "int"), ({"vocab_size": math.inf}, "infinity"), ({"hidden_dropout": None}, "NoneType")])
def test_broken_config_is_one_line_that_names_the_file(changes, complaint):
    hf = random_model(RECIPES[2]).config.to_hf() | changes
    with pytest.raises(ValueError, match=complaint) as error:
        RecurrentConfig.from_hf(hf, source="runs/x/config.json")
    assert str(error.value).startswith("runs/x/config.json: ") and "\n" not in str(error.value)


@pytest.mark.parametrize("recipe, complaint", [
    ("lstm:hiden=3", "'hiden=3' is not one of vocab=NUMBER, embedding=NUMBER, hidden=NUMBER, layers=NUMBER"),
    ("gru:heads=2", "'heads=2'"), ("bag:ngrams=x", "'ngrams=x'"), ("lstm:hidden", "'hidden'"), ("mamba", "'mamba'"),
    ("xlstm:heads=3", "not a multiple"), ("rwkv:layers=0", "num_layers 0"), ("bag:ngrams=0", "ngrams 0")])
def test_wrong_recipe_says_what_is_allowed(recipe, complaint):
    with pytest.raises(ValueError, match=complaint) as error:
        build_recurrent(recipe, 60, 0, LABELS)
    assert str(error.value).startswith(repr(recipe)) and "\n" not in str(error.value)


def test_every_default_builds():
    for kind in RECURRENT_DEFAULTS:
        assert build_recurrent(kind, 50, 0, LABELS).config.kind == kind
    assert parse_recurrent_recipe("gru:vocab=500")[1]["vocab"] == 500  # for whoever makes the tokenizer


# Pretrained word vectors ---------------------------------------------------------------------------------

def test_table_of_equal_width_is_copied_and_rows_may_be_picked():
    table, rows = torch.randn(90, 6), torch.randperm(90)[:60]
    model = start_word_vectors(random_model(RECIPES[0]), table[:60])
    assert torch.equal(model.embeddings.word.weight, table[:60])
    assert torch.equal(start_word_vectors(model, table, rows).embeddings.word.weight, table[rows])
    assert model.embeddings.word.weight.requires_grad and model.embeddings.word.weight.is_leaf


@pytest.mark.parametrize("recipe", [RECIPES[3], RECIPES[4]])
def test_wide_table_is_projected_on_its_first_singular_directions(recipe):
    torch.manual_seed(0)
    table = torch.randn(60, 20) * torch.linspace(3, 0.1, 20) + 7  # the mean is larger than what tells words apart
    words = start_word_vectors(random_model(recipe), table).embeddings.word.weight.detach()
    U, S, _ = torch.linalg.svd(table - table.mean(dim=0), full_matrices=False)
    best = U[:, :6] * S[:6]
    torch.testing.assert_close(words @ words.T / words.square().sum(), best @ best.T / best.square().sum(),
                               atol=1e-5, rtol=1e-4)
    assert words.std().item() == pytest.approx(0.1, rel=1e-3)


@pytest.mark.parametrize("shape", [(60, 5), (59, 6)])
def test_table_that_does_not_fit_is_refused(shape):
    with pytest.raises(ValueError, match=rf"\({shape[0]}, {shape[1]}\)"):
        start_word_vectors(random_model(RECIPES[0]), torch.zeros(shape))
