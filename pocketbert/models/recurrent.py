"""Text classifiers without attention: LSTM, GRU, xLSTM, RWKV, a CNN and a bag of n-grams.

    kind          its formulas    a layer
    lstm, gru     lstm_gru.py     one cell to the right and one to the left
    xlstm         xlstm.py        mLSTM to the right, sLSTM to the left, in turn
    rwkv          rwkv.py         time mix and channel mix, to the right and to the left in turn
    cnn           cnn.py          gated convolutions over neighbouring tokens
    bag           bag.py          no order: dense layers on the pooled words

    model = build_recurrent("gru:hidden=256,layers=2", vocab_size=8000, pad_id=0, label_names=["bad", "good"])
    logits = model(input_ids, attention_mask)

To add a kind of network (recurrent or not): its layer in a file of its own and a line in LAYERS; its name in
RECURRENT_KINDS and the width of its text vector in text_size (recurrent_config.py); a line of defaults in recipes.py;
its name in the help of train.py and distill.py. A layer is called with x (B, T, C) and the order that reverses a text.
It must be causal, or flip x as BothWays does: padding is on the right and must never reach a token.
"""

from torch import nn

from pocketbert.models.bag import BagClassifier
from pocketbert.models.cnn import ConvolutionalClassifier
from pocketbert.models.lstm_gru import BothWays
from pocketbert.models.masks import full_mask
from pocketbert.models.rwkv import rwkv_layer
from pocketbert.models.sequence import LinearHead, WordEmbeddings, device_of, mean_and_max, reversed_order
from pocketbert.models.xlstm import xlstm_layer

LAYERS = {"lstm": BothWays, "gru": BothWays, "xlstm": xlstm_layer, "rwkv": rwkv_layer}  # kind -> (config, i) -> layer


class RecurrentClassifier(nn.Module):
    """embeddings -> projection -> layers -> norm -> mean and maximum -> head. Called like the Encoder.

    Projection and norm are those of xLSTM and RWKV, whose layers add to one vector of one width throughout.
    """

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.embeddings = WordEmbeddings(config)
        self.projection = nn.Identity()
        self.norm = nn.Identity()
        if config.kind in ("xlstm", "rwkv"):
            self.norm = nn.LayerNorm(config.hidden_size)
            if config.embedding_size != config.hidden_size:
                self.projection = nn.Linear(config.embedding_size, config.hidden_size)
        self.layers = nn.ModuleList(LAYERS[config.kind](config, i) for i in range(config.num_layers))
        self.head = LinearHead(config)

    @property
    def device(self):
        return device_of(self)

    def forward(self, input_ids, attention_mask=None):
        """Token ids (B, T) -> logits (B, num_labels). attention_mask: (B, T), 1 for text, then 0 for padding."""
        mask = full_mask(input_ids, attention_mask).bool()
        order = reversed_order(mask)
        x = self.projection(self.embeddings(input_ids))
        for layer in self.layers:
            x = layer(x, order)
        return self.head(mean_and_max(self.norm(x), mask))


def recurrent_model(config):
    """A model of the config's kind, with random weights."""
    if config.kind == "bag":
        return BagClassifier(config)
    if config.kind == "cnn":
        return ConvolutionalClassifier(config)
    return RecurrentClassifier(config)
