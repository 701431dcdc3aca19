"""P5 (Geng et al., RecSys'22): ranking as a text-to-text task for T5, with the answers yes and no.

As in the original, IDs of users and places are random numbers split into tokens (numbers in time
order would leak the test item), all tokens of a word share a whole-word embedding, and the score is
the softmax over "yes" and "no" at the decoder's first step. The words of a prompt are the features
that all rankers read. The T5 is small and trained from scratch.

Shapes: B rows of a batch, M numbers, L recent places, W words of a kind, D tokens of a spelled
word, N tokens, F categories, H hidden units, T tasks, V values.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from larr.data.batches import Batch
from larr.rankers.layers import with_product
from larr.rankers.neural import NeuralRanker
from larr.rankers.ranker import RankerInputs

UNITS, LAYERS, HEADS, FEEDFORWARD = 64, 2, 4, 128  # the size of the T5
BASE = 100  # a token of an ID is two decimal digits
LEVELS = 13  # tokens of a standardised number, half a standard deviation apart
PADDING = BASE + LEVELS
SPELLED = ("user_id", "poi_id")
MAX_VALUES = 1_000  # categories with more values are spelled, too


class P5(NeuralRanker):
    """A T5 that reads a row as a prompt and answers one question for each task."""

    seen: Tensor
    spelling: Tensor
    spelled: Tensor
    unspelled: Tensor
    words: Tensor

    def __init__(self, inputs: RankerInputs) -> None:
        from transformers import T5Config, T5Model  # noqa: PLC0415 - other rankers start faster

        super().__init__(inputs)
        features = inputs.features
        names = [category.name for category in features.categories]
        self.register_buffer("seen", inputs.seen, persistent=False)
        size_F = np.array([category.size for category in features.categories], dtype=np.int64)
        spelled = [n for n, name in enumerate(names) if name in SPELLED or size_F[n] > MAX_VALUES]
        unspelled = [n for n in range(len(names)) if n not in spelled]
        digits = max((math.ceil(math.log(size, BASE)) for size in size_F[spelled]), default=1)
        spellings = [torch.empty(0, digits, dtype=torch.int64)]
        spellings += [random_spelling(size, digits) for size in size_F[spelled]]
        self.register_buffer("spelling", torch.cat(spellings), persistent=False)
        kinds = (("spelled", spelled, 0), ("unspelled", unspelled, PADDING + 1))
        for kind, columns, first in kinds:
            # the columns, and the offset of their values in `spelling` or among the tokens
            shifts_W = torch.from_numpy(first + size_F[columns].cumsum() - size_F[columns])
            columns_2W = torch.stack([torch.tensor(columns).long(), shifts_W])
            self.register_buffer(kind, columns_2W, persistent=False)
        place = spelled.index(names.index("poi_id")) if features.recent else 0
        self.recent_shift = int(self.spelled[1, place]) if features.recent else 0
        # the word of each token in a prompt, [N]; recent places share one word
        words = len(names) + inputs.numbers
        pieces = torch.tensor([digits] * len(spelled) + [1] * (words - len(spelled)))
        word_N = torch.arange(words).repeat_interleave(pieces)
        recent_N = torch.full((features.recent * digits,), words)
        self.register_buffer("words", torch.cat([word_N, recent_N]), persistent=False)
        tokens = PADDING + 1 + int(size_F[unspelled].sum())
        self.tokens = nn.Embedding(tokens, UNITS, padding_idx=PADDING)
        self.whole_words = nn.Embedding(int(self.words.max()) + 1, UNITS)
        self.questions = nn.Embedding(self.tasks, UNITS)
        self.t5 = T5Model(
            T5Config(
                vocab_size=1,
                d_model=UNITS,
                d_kv=UNITS // HEADS,
                d_ff=FEEDFORWARD,
                num_layers=LAYERS,
                num_heads=HEADS,
                dropout_rate=inputs.settings.dropout,
                use_cache=False,
                eos_token_id=None,
            )
        )
        no_tokens = nn.Identity()  # prompts are passed as embeddings
        self.t5.shared = self.t5.encoder.embed_tokens = self.t5.decoder.embed_tokens = no_tokens
        self.yes_and_no = nn.Linear(UNITS, 2, bias=False)
        self.bias = nn.Parameter(torch.zeros(self.tasks))

    def forward(self, batch: Batch) -> Tensor:
        """Returns the logit of yes minus the logit of no for each task, [B, T]."""
        tokens_BN = self.prompt(batch)
        embedded_BNH = self.tokens(tokens_BN) + self.whole_words(self.words)
        asked_BTH = self.questions.weight.expand(batch.rows, -1, -1)
        answered_BTH = self.t5(
            inputs_embeds=embedded_BNH,
            attention_mask=tokens_BN != PADDING,
            decoder_inputs_embeds=asked_BTH,
        ).last_hidden_state
        yes_BT, no_BT = self.yes_and_no(answered_BTH).unbind(dim=2)
        return with_product((yes_BT - no_BT + self.bias).float(), self.settings.ctcvr)

    def prompt(self, batch: Batch) -> Tensor:
        """Returns the tokens of each row, [B, N]: spelled words, words, numbers, recent places.

        A hidden category has the unknown value in every row.
        """
        categories_BF = batch.categories * self.seen
        columns_W, shifts_W = self.spelled
        spelled_BWD = self.spelling[categories_BF[:, columns_W] + shifts_W]
        columns_W, shifts_W = self.unspelled
        unspelled_BW = categories_BF[:, columns_W] + shifts_W
        half = LEVELS // 2
        numbers_BM = torch.cat([batch.numbers, batch.figures], dim=1)
        numbers_BM = (2 * numbers_BM).round().clamp(-half, half).long() + half + BASE
        recent_BLD = self.spelling[batch.recent + self.recent_shift]
        return torch.cat(
            [spelled_BWD.flatten(1), unspelled_BW, numbers_BM, recent_BLD.flatten(1)], dim=1
        )

    @torch.no_grad()
    def set_base_rates(self, rates_T: Tensor) -> None:
        """Sets the bias of each task to the logit of its base rate."""
        self.bias.copy_(rates_T.logit(eps=1e-6))


def random_spelling(size: int, digits: int) -> Tensor:
    """Returns the tokens of each value's random number, [V, D]; padding for the unknown value."""
    random = np.random.default_rng(size)
    number_V = np.concatenate([[0], 1 + random.permutation(size - 1)])
    pieces_VD = number_V[:, None] // BASE ** np.arange(digits)[::-1] % BASE
    pieces_VD[0] = PADDING
    return torch.from_numpy(pieces_VD)
