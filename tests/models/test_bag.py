"""The bag: words and n-grams equal a loop over them, and training leaves words out."""

import math

import torch
import torch.nn.functional as F

from pocketbert.models.bag import hash_ngrams
from pocketbert.models.recipes import build_recurrent
from pocketbert.training.optim import set_dropout
from small_models import LABELS, RECURRENT, random_recurrent


def test_bag_equals_a_loop_over_words_and_ngrams(padded_batch):
    model, (input_ids, attention_mask) = random_recurrent("bag:ngrams=3,buckets=50,embedding=6,hidden=8"), padded_batch
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
    words, pairs = (random_recurrent(f"bag:ngrams={n},buckets=50,embedding=6,hidden=8") for n in (1, 2))
    torch.testing.assert_close(words(one), words(other))
    assert (pairs(one) - pairs(other)).abs().max() > 1e-3
    assert not hasattr(words.embeddings, "ngram")


def test_ngram_longer_than_a_text_is_no_ngram_of_it():
    model = random_recurrent("bag:ngrams=6,buckets=50,embedding=6,hidden=8")
    together = model(torch.tensor([[5, 6, 7, 8, 9], [5, 6, 7, 0, 0]]), torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]))
    torch.testing.assert_close(model(torch.tensor([[5, 6, 7]])), together[1:])


def test_training_leaves_out_words_and_ngrams():
    for silent in ("word", "ngram"):
        model = random_recurrent(RECURRENT["bag"]).train()
        set_dropout(model, 0.0)
        getattr(model.embeddings, silent).weight.data.zero_()
        model.embeddings.dropout, ids = 0.5, torch.arange(5, 25)[None]
        assert not torch.allclose(model(ids), model(ids))


def test_training_never_leaves_out_all_of_a_text():
    model = random_recurrent(RECURRENT["bag"]).train()
    model.embeddings.dropout = 0.99
    mask = torch.ones(500, 3, dtype=torch.bool)
    mask[:, 2] = False
    kept = model.embeddings.drop(mask)
    assert kept.any(dim=1).all() and not kept[:, 2].any()


def test_simple_average_and_dense_16_is_a_recipe():
    model = build_recurrent("bag:ngrams=1,embedding=16,hidden=16", 100, 0, LABELS)
    assert sum(p.numel() for p in model.parameters()) == 100 * 16 + (2 * 16 + 1) * 16 + 17 * 3
    linear = build_recurrent("bag:ngrams=1,embedding=16,layers=0", 100, 0, LABELS)
    words = linear.embeddings.word.weight[[5, 7]]
    both = torch.cat([words.mean(dim=0), words.amax(dim=0)])
    torch.testing.assert_close(linear(torch.tensor([[5, 7]])), linear.head.out(both)[None])


def test_ngram_rows_are_spread_like_random_numbers():
    ids = torch.cartesian_prod(torch.arange(250), torch.arange(250))  # neighbours, where a poor hash has stripes
    filled = len(hash_ngrams(ids, 2, 65536).unique()) / 65536
    assert abs(filled - (1 - math.exp(-62500 / 65536))) < 0.01
