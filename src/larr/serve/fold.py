"""Folds PLE and LARR: computes the contributions of places, texts and category values offline.

Two properties of the rankers make this exact up to the rounding of float32:

- PLE's first level multiplies all inputs with one matrix, so the contributions of the inputs add
  up. Those of a place are stored; those of a request are summed once for all candidates. Cross
  layers multiply inputs with each other, so they are computed for each candidate.
- With one layer read at `<agg>`, the scene encoder's only query is a constant, and the key and
  value of a token depend on one stored text. The softmax over some texts can be stored before its
  division (`Partial`) and merged with that over the others, as in online softmax (Milakov and
  Gimelshein, 2018). A place's texts are merged offline, a request's texts once per request. A
  candidate costs one merge and the rest of the layer for one token.

`TextRows`, `PlaceRows` and `Scoring` are exported as ONNX graphs. They compute the stored rows of
texts, the stored rows of places, and the logits of candidates from stored rows. The graphs need no
torch and are faster: for the fifty small operations of `Scoring`, torch spends more time on
dispatch than on arithmetic.

Shapes: N texts, K candidates, P places, L recent places, R scene keywords, Q of them of the
request, S of the place, F categories, M numbers, E embedding, I inputs and O products of the first
level, H attention heads, C = D / H, D dimension of the vectors, A dimension of e_s, U of the common
space, T tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from larr.data.features import ColumnSplit
from larr.rankers.larr import Larr
from larr.rankers.matching import Matching, project, similarities
from larr.rankers.ple import Ple
from larr.rankers.scene_encoder import SceneEncoder, after_attention, folded_query

Inputs = dict[str, Tensor]


class Partial(NamedTuple):
    """A softmax over some tokens before its division, per head."""

    largest: Tensor
    """The largest logit, [N, H]."""
    weight: Tensor
    """The sum of exp(logit - largest), [N, H]."""
    value: Tensor
    """The sum of exp(logit - largest) times the values, [N, H, C]."""


def partial(logits_NRH: Tensor, values_NRHC: Tensor) -> Partial:
    """Returns the softmax over the texts of some keywords, with zero weight for no texts."""
    if not logits_NRH.shape[1]:
        value_NHC = values_NRHC.sum(dim=1)
        return Partial(value_NHC[..., 0] - torch.inf, value_NHC[..., 0], value_NHC)
    # subtracting the largest logit prevents overflow; `merged` rescales both sides
    largest_NH = logits_NRH.amax(dim=1)
    weight_NRH = (logits_NRH - largest_NH[:, None]).exp()
    value_NHC = (weight_NRH[..., None] * values_NRHC).sum(dim=1)
    return Partial(largest_NH, weight_NRH.sum(dim=1), value_NHC)


def merged(first: Partial, second: Partial) -> Partial:
    """Merges two softmaxes over different tokens; a side with one row applies to all rows."""
    largest_NH = torch.maximum(first.largest, second.largest)
    first_NH, second_NH = ((side.largest - largest_NH).exp() for side in (first, second))
    weight_NH = first_NH * first.weight + second_NH * second.weight
    value_NHC = first_NH[..., None] * first.value + second_NH[..., None] * second.value
    return Partial(largest_NH, weight_NH, value_NHC)


def attention_of(encoder: SceneEncoder, tokens_ND: Tensor) -> tuple[Tensor, Tensor]:
    """Returns each token's logit for the query of `<agg>`, [N, H], and its value, [N, H, C]."""
    layer, query_D = encoder.first, encoder.agg
    if layer.norm_first:
        query_D, tokens_ND = layer.norm1(query_D), layer.norm1(tokens_ND)
    key_HD, value_HCD, bias_HC = folded_query(layer.self_attn, query_D)
    values_NHC = torch.einsum("nd,hcd->nhc", tokens_ND, value_HCD) + bias_HC
    return tokens_ND @ key_HD.T, values_NHC


def agg_partial(encoder: SceneEncoder) -> Partial:
    """Returns the softmax over only `<agg>`, one row."""
    logits_1H, values_1HC = attention_of(encoder, encoder.agg[None])
    return Partial(logits_1H, torch.ones_like(logits_1H), values_1HC)


def encoded(encoder: SceneEncoder, all_texts: Partial) -> Tensor:
    """Returns e_s [N, A] from the softmax over all tokens."""
    mixed_ND = (all_texts.value / all_texts.weight[..., None]).flatten(1)
    attended_ND = encoder.first.self_attn.out_proj(mixed_ND)
    e_s: Tensor = encoder.projection(after_attention(encoder.first, encoder.agg, attended_ND))
    return e_s


def as_larr(model: Ple) -> Larr | None:
    """Returns the model if it is a LARR, else None."""
    return model if isinstance(model, Larr) else None


class TextRows(nn.Module):
    """Computes the stored row of a text from its vector and the slot of its keyword."""

    def __init__(self, model: Larr) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Inputs) -> Inputs:
        """Maps `raw` [N, D] and `slots` [N] to centred vectors, logits and values."""
        model, slot_N = self.model, inputs["slots"]
        centred_ND = project(inputs["raw"], model.axes) - model.centres.index_select(0, slot_N)
        centred_ND = centred_ND * model.scales.index_select(0, slot_N)
        tokens_ND = centred_ND + model.scene.slots.index_select(0, slot_N)
        logits_NH, values_NHC = attention_of(model.scene, tokens_ND)
        return {"vectors": centred_ND, "logits": logits_NH, "values": values_NHC}

    def missing(self) -> Inputs:
        """Returns the same for the missing text of each keyword, [R, ...]."""
        scene = self.model.scene
        logits_RH, values_RHC = attention_of(scene, scene.null + scene.slots)
        vectors_RD = torch.zeros_like(scene.slots)
        return {"vectors": vectors_RD, "logits": logits_RH, "values": values_RHC}


class _Inputs:
    """The positions of PLE's inputs by type."""

    def __init__(self, model: Ple) -> None:
        encoder, inputs = model.encoder, model.first.linear.in_features
        width = encoder.embedding
        flat, recent = len(encoder.seen) * width, width * (encoder.counts[1] > 0)
        sizes = [flat, recent, encoder.width - flat - recent, inputs - encoder.width]
        by_category, self.recent, self.number, self.more = torch.arange(inputs).split(sizes)
        self.category = by_category.unflatten(0, (-1, width))

    def of_columns(self, categories: Sequence[int], numbers: Sequence[int]) -> Tensor:
        """Returns the positions of some categories' embeddings, then those of some numbers."""
        return torch.cat([self.category[list(categories)].flatten(), self.number[list(numbers)]])


class PlaceRows(nn.Module):
    """Computes the stored row of a place from its category embeddings, numbers and texts."""

    def __init__(self, model: Ple, categories: ColumnSplit, numbers: ColumnSplit) -> None:
        super().__init__()
        position_I = _Inputs(model).of_columns(categories.place, numbers.place)
        self.weight = model.first.linear.weight.detach().T[position_I]
        self.has_crosses = bool(model.crosses)
        self.larr = as_larr(model)

    def forward(self, inputs: Inputs) -> Inputs:
        """Takes embeddings [P, F, E], numbers [P, M] and, for LARR, the rows of its texts.

        Returns the place's part of the first products, the softmax, the common space and the inputs
        of cross layers.
        """
        columns_PI = torch.cat([inputs["categories"].flatten(1), inputs["numbers"]], dim=1)
        rows = {"place_products": columns_PI @ self.weight}
        if self.has_crosses:
            rows["place_inputs"] = columns_PI
        if self.larr:
            texts = partial(inputs["logits"], inputs["values"])
            rows |= {f"place_{name}": tensor for name, tensor in texts._asdict().items()}
            if self.larr.matching:
                rows["place_common"] = self.larr.matching.place(inputs["vectors"].flatten(1))
        return rows


class Scoring(nn.Module):
    """Computes the logits of candidates from the rows of the request and of their places."""

    def __init__(self, model: Ple, categories: ColumnSplit, numbers: ColumnSplit) -> None:
        super().__init__()
        self.model, self.larr, position = model, as_larr(model), _Inputs(model)
        weight_IO = model.first.linear.weight.detach().T
        request_I = position.of_columns(categories.request, numbers.request)
        self.request_weight = weight_IO[request_I]
        figures = range(sum(map(len, numbers)), len(position.number))  # text figures come last
        numbers_I = position.number[[*numbers.candidate, *figures]]
        rest_I = torch.cat([numbers_I, position.recent, position.more])
        self.rest_weight = weight_IO[rest_I]
        # Categories that differ within a request (levels, positions) have few values, so the graph
        # stores the products of all of them as constants. All values of a hidden category get the
        # embedding of the unknown value, the first.
        self.candidate_values, self.candidate_products = [], []
        encoder = model.encoder
        starts = [*encoder.shifts[: len(encoder.seen)].tolist(), len(encoder.table.rows)]
        for column in categories.candidate:
            value_V = torch.arange(starts[column + 1] - starts[column]) * encoder.seen[column]
            rows_VE = encoder.table.rows[starts[column] + value_V, : encoder.embedding].detach()
            self.candidate_values.append(rows_VE)
            self.candidate_products.append(rows_VE @ weight_IO[position.category[column]])
        place_I = position.of_columns(categories.place, numbers.place)
        columns_I = position.category[list(categories.candidate)].flatten()
        self.order_I = torch.cat([place_I, request_I, columns_I, rest_I]).argsort()
        if self.larr:
            self.agg = Partial(*(part.detach() for part in agg_partial(self.larr.scene)))

    def forward(self, inputs: Inputs) -> Inputs:
        """Maps the inputs that `larr.serve.served` looks up to `logits`, [K, T]."""
        request = [inputs["request_categories"].flatten(), inputs["request_numbers"]]
        request_1I = torch.cat(request)[None]
        request_1O = torch.addmm(self.model.first.linear.bias, request_1I, self.request_weight)
        products_KO = inputs["place_products"] + request_1O
        for column, products_VO in enumerate(self.candidate_products):
            index_K = inputs["candidate_categories"][:, column]
            products_KO = products_KO + products_VO.index_select(0, index_K)
        rest = [inputs["candidate_numbers"]]
        if self.model.encoder.counts[1]:
            rest.append(self._recent(inputs))
        if self.larr:
            request_texts = partial(inputs["request_logits"][None], inputs["request_values"][None])
            place_texts = Partial(*(inputs[f"place_{name}"] for name in Partial._fields))
            known = merged(self.agg, request_texts)
            rest.append(encoded(self.larr.scene, merged(known, place_texts)))
            if self.larr.matching:
                rest += self._figures(self.larr.matching, inputs)
        products_KO = torch.addmm(products_KO, torch.cat(rest, dim=1), self.rest_weight)
        x_KI = self._joined(inputs, request_1I, rest) if self.model.crosses else None
        return {"logits": self.model.logits_after(products_KO, x_KI)}

    def _joined(self, inputs: Inputs, request_1I: Tensor, rest: list[Tensor]) -> Tensor:
        """Concatenates all inputs in the ranker's order, [K, I]."""
        place_KI = inputs["place_inputs"]
        columns = [place_KI, request_1I.expand(place_KI.shape[0], -1)]
        for column, values_VE in enumerate(self.candidate_values):
            columns.append(values_VE.index_select(0, inputs["candidate_categories"][:, column]))
        return torch.cat([*columns, *rest], dim=1).index_select(1, self.order_I)

    def _recent(self, inputs: Inputs) -> Tensor:
        """Returns `TargetAttention` over the recent places of one user, [K, E].

        Factored, so that the part of the recent places is computed once per request.
        """
        attention, recent_LE = self.model.encoder.attention, inputs["recent_places"]
        own_AE, product_AE = attention.pair.weight.chunk(2, dim=1)
        pair_LAE = recent_LE[:, None] * product_AE + attention.candidate.weight
        own_LA = recent_LE @ own_AE.T + attention.candidate.bias
        hidden = inputs["place_embedding"] @ pair_LAE.flatten(0, 1).T + own_LA.flatten()
        hidden_KLA = functional.relu(hidden).unflatten(1, own_LA.shape)
        score_KL = (hidden_KLA @ attention.score.weight.T).squeeze(2) + attention.score.bias
        weight_KL: Tensor = score_KL * inputs["recent_known"]
        return weight_KL @ recent_LE

    def _figures(self, matching: Matching, inputs: Inputs) -> list[Tensor]:
        """Returns the figures of `Matching` between one request's texts and each place's."""
        request_QD, place_KSD = inputs["request_vectors"], inputs["place_vectors"]
        columns, compared = [request_QD.flatten()], [request_QD]
        if matching.recent_slot is not None:
            recent_LD, has_text_L = inputs["recent_vectors"], inputs["recent_has_text"]
            columns.append(recent_LD.sum(dim=0) / has_text_L.sum().clamp(min=1))
            compared.append(recent_LD)
        # one product for all pairs of texts, then split into request texts and recent places
        product = place_KSD.flatten(0, 1) @ torch.cat(compared).T
        product_KSX = product.unflatten(0, (-1, len(matching.place_slots)))
        figures = [product_KSX[:, :, : len(request_QD)].flatten(1)]
        if matching.recent_slot is not None:
            slot = matching.place_slots.index(matching.recent_slot)
            recent_KL = product_KSX[:, slot, len(request_QD) :]
            figures.append(similarities(recent_KL, has_text_L[None]))
        return [*figures, matching.request(torch.cat(columns)) * inputs["place_common"]]
