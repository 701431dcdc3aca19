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
from torch.func import functional_call
from torch.nn import functional

from larr.data.features import ColumnSplit
from larr.rankers.larr import Larr
from larr.rankers.layers import with_product
from larr.rankers.matching import Matching, project, similarities
from larr.rankers.ple import Ple, with_crossed
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
        tokens_ND = model.own(centred_ND) + model.scene.slots.index_select(0, slot_N)
        logits_NH, values_NHC = attention_of(model.scene, tokens_ND)
        return {"vectors": centred_ND, "logits": logits_NH, "values": values_NHC}

    def missing(self) -> Inputs:
        """Returns the same for the missing text of each keyword, [R, ...]."""
        scene = self.model.scene
        logits_RH, values_RHC = attention_of(scene, scene.null + scene.slots)
        vectors_RD = torch.zeros_like(self.model.centres)
        return {"vectors": vectors_RD, "logits": logits_RH, "values": values_RHC}


class InputPositions:
    """The positions of PLE's inputs by type."""

    def __init__(self, model: Ple) -> None:
        encoder, inputs = model.encoder, model.first.linear.in_features
        width = encoder.embedding
        flat, recent = len(encoder.seen) * width, width * (encoder.counts[1] > 0)
        sizes = [flat, recent, encoder.width - flat - recent, inputs - encoder.width]
        by_category, self.recent, self.number, self.extra = torch.arange(inputs).split(sizes)
        self.category = by_category.unflatten(0, (-1, width))

    def of_columns(self, categories: Sequence[int], numbers: Sequence[int]) -> Tensor:
        """Returns the positions of some categories' embeddings, then those of some numbers."""
        return torch.cat([self.category[list(categories)].flatten(), self.number[list(numbers)]])


class PlaceRows(nn.Module):
    """Computes the stored row of a place from its category embeddings, numbers and texts."""

    def __init__(self, model: Ple, categories: ColumnSplit, numbers: ColumnSplit) -> None:
        super().__init__()
        position_I = InputPositions(model).of_columns(categories.place, numbers.place)
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
                rows["place_common"] = self.larr.matching.of_places(inputs["vectors"])
        return rows


class Scoring(nn.Module):
    """Computes the logits of candidates from the rows of the request and of their places."""

    def __init__(self, model: Ple, categories: ColumnSplit, numbers: ColumnSplit) -> None:
        super().__init__()
        self.model, self.larr, position = model, as_larr(model), InputPositions(model)
        weight_IO = model.first.linear.weight.detach().T
        request_I = position.of_columns(categories.request, numbers.request)
        self.request_weight = weight_IO[request_I]
        figures = range(sum(map(len, numbers)), len(position.number))  # text figures come last
        numbers_I = position.number[[*numbers.candidate, *figures]]
        columns_I = position.category[list(categories.candidate)].flatten()
        rest_I = torch.cat([columns_I, numbers_I, position.recent, position.extra])
        self.rest_weight = weight_IO[rest_I]
        # Categories that differ within a request (levels, positions) have few values, so the graph
        # stores the embeddings of all of them as constants. All values of a hidden category get
        # the embedding of the unknown value, the first.
        self.candidate_values, encoder = [], model.encoder
        starts = [*encoder.shifts[: len(encoder.seen)].tolist(), len(encoder.table.rows)]
        for column in categories.candidate:
            value_V = torch.arange(starts[column + 1] - starts[column]) * encoder.seen[column]
            rows_VE = encoder.table.rows[starts[column] + value_V, : encoder.embedding].detach()
            self.candidate_values.append(rows_VE)
        place_I = position.of_columns(categories.place, numbers.place)
        self._arrange_crosses(request_I, torch.cat([place_I, rest_I]))
        if self.larr:
            self.agg = Partial(*(part.detach() for part in agg_partial(self.larr.scene)))

    def forward(self, inputs: Inputs) -> Inputs:
        """Maps the inputs that `larr.serve.forms` looks up to `logits`, [K, T]."""
        request = [inputs["request_categories"].flatten(), inputs["request_numbers"]]
        request_1I = torch.cat(request)[None]
        request_1O = torch.addmm(self.model.first.linear.bias, request_1I, self.request_weight)
        products_KO = inputs["place_products"] + request_1O
        rest = [
            values_VE.index_select(0, inputs["candidate_categories"][:, column])
            for column, values_VE in enumerate(self.candidate_values)
        ]
        rest.append(inputs["candidate_numbers"])
        if self.model.encoder.counts[1]:
            rest.append(self._recent(inputs))
        if self.larr:
            request_texts = partial(inputs["request_logits"][None], inputs["request_values"][None])
            place_texts = Partial(*(inputs[f"place_{name}"] for name in Partial._fields))
            known = merged(self.agg, request_texts)
            rest.append(encoded(self.larr.scene, merged(known, place_texts)))
            if self.larr.matching:
                rest += self._figures(self.larr.matching, inputs)
        rest_KI = torch.cat(rest, dim=1)
        products_KO = torch.addmm(products_KO, rest_KI, self.rest_weight)
        mixed_TKO = self.model.next(self.model.first(products_KO))
        if self.crosses:
            differing_KI = torch.cat([inputs["place_inputs"], rest_KI], dim=1)
            mixed_TKO = with_crossed(mixed_TKO, self._crossed(request_1I, differing_KI))
        logits_KT = functional_call(self.model.towers, self.tower_weights, (mixed_TKO,))
        return {"logits": with_product(logits_KT, self.model.settings.ctcvr)}

    def _arrange_crosses(self, request_I: Tensor, differing_I: Tensor) -> None:
        """Reorders the weights by the graph's inputs: the request's, then those of candidates.

        Moving the columns of all candidates to the ranker's order would take as long as half a
        cross layer.
        """
        order_I, towers = torch.cat([request_I, differing_I]), self.model.towers
        self.crosses = []
        for cross in self.model.crosses:
            weight_II, bias_I = (each.detach()[order_I] for each in cross.parameters())
            self.crosses.append((weight_II[:, order_I].T, bias_I))
        self.tower_weights = {name: each.detach() for name, each in towers.named_parameters()}
        if self.crosses:
            first = "layers.0.weight"
            mixed_TUO, crossed_TUI = self.tower_weights[first].tensor_split([-len(order_I)], dim=2)
            self.tower_weights[first] = torch.cat([mixed_TUO, crossed_TUI[..., order_I]], dim=2)

    def _crossed(self, request_1I: Tensor, differing_KI: Tensor) -> Tensor:
        """Returns the output of the cross layers, [K, I].

        The first layer multiplies the request's inputs once for all candidates.
        """
        request_KI = request_1I.expand(differing_KI.shape[0], -1)
        first_KI = torch.cat([request_KI, differing_KI], dim=1)
        (weight_II, bias_I), *others = self.crosses
        request_II, candidate_II = weight_II.tensor_split([request_1I.shape[1]])
        shared_1I = torch.addmm(bias_I, request_1I, request_II)
        x_KI = torch.addcmul(first_KI, first_KI, torch.addmm(shared_1I, differing_KI, candidate_II))
        for weight_II, bias_I in others:
            x_KI = torch.addcmul(x_KI, first_KI, torch.addmm(bias_I, x_KI, weight_II))
        return x_KI

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
        columns, compared = [request_QD], [request_QD]
        if matching.recent_slot is not None:
            recent_LD, has_text_L = inputs["recent_vectors"], inputs["recent_has_text"]
            columns.append(recent_LD.sum(dim=0)[None] / has_text_L.sum().clamp(min=1))
            compared.append(recent_LD)
        # one product for all pairs of texts, then split into request texts and recent places
        sides = (place_KSD.flatten(0, 1), torch.cat(compared))
        parts = zip(*(side.chunk(matching.sources, dim=1) for side in sides), strict=True)
        products = [
            (place @ other.T).unflatten(0, (-1, len(matching.place_slots)))
            for place, other in parts
        ]
        figures = [each_KSX[:, :, : len(request_QD)].flatten(1) for each_KSX in products]
        if matching.recent_slot is not None:
            slot = matching.place_slots.index(matching.recent_slot)
            recent = [each_KSX[:, slot, len(request_QD) :] for each_KSX in products]
            figures += [similarities(each_KL, has_text_L[None]) for each_KL in recent]
        common_1X = matching.of_requests(torch.cat(columns)[None])
        return [*figures, common_1X * inputs["place_common"]]
