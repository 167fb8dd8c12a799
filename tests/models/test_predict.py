"""predict: the order of the texts, and no answer that is not finite."""

import pytest
import torch

from pocketbert.errors import TrainingDiverged
from pocketbert.models.predict import predict
from small_models import random_model


def test_logits_come_in_the_order_of_the_texts_whatever_the_batches():
    model = random_model()
    ids = [[5, 6], [7, 8, 9, 10], [11], [12, 13, 14], [15, 16]]
    alone = torch.cat([model(torch.tensor([row])) for row in ids]).detach()
    for batch_size in (1, 2, 5):
        torch.testing.assert_close(predict(model, ids, batch_size, pad_id=0), alone, atol=1e-5, rtol=1e-5)


def test_model_whose_logits_are_not_finite_does_not_answer():
    model = random_model()
    model.layers[0].ffn.up.weight.data.fill_(1e38)  # finite, but not their sums
    with pytest.raises(TrainingDiverged, match="NaN or infinite"):
        predict(model, [[5, 6], [7]], 2, pad_id=0)
