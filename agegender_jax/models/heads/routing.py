"""A gender net that routes each image to one of two age nets (Imamdin et al., after Raman et al. 2022).

The backbone `routed` is three nets. Three ordinary heads read one each: the gender, and the age of either gender,
whose labels of the other are unknown. At evaluation their predictions are combined in three ways, over the same
examples: by the *predicted* gender, by the *soft* mixture sum_g P(g | x) p_g(age | x), and by the *true* gender, which
no system can know: the cost of wrong routing is the difference to the first.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from agegender_jax.errors import UserError
from agegender_jax.labels import GENDERS
from agegender_jax.models.heads.age_group import AgeGroupHead
from agegender_jax.models.heads.age_years import AgeYearsHead
from agegender_jax.models.heads.base import Head


def route_by_gender(heads: Mapping[str, Head]) -> dict[str, Head]:
    """Returns the heads of the backbone `routed`: the gender, and each head of age once for either gender.

    Raises:
      UserError: a head is none of these, or there are not both.
    """
    routed: dict[str, Head] = {}
    for name, head in heads.items():
        if isinstance(head, AgeGroupHead | AgeYearsHead):
            routed |= {f"{name}_{gender}": dataclasses.replace(head, only_gender=gender) for gender in GENDERS}
        elif name == "gender":
            routed[name] = head
        else:
            raise UserError(
                f"config.heads.{name}.weight={head.weight:g} is not for config.model.backbone='routed', whose nets "
                "learn gender and age; set it to 0."
            )
    if "gender" not in routed or len(routed) < 3:
        raise UserError(
            "config.model.backbone='routed' needs the head gender and a head of age; set config.heads.gender.weight, "
            "and config.heads.age_group.weight or config.heads.age.weight, above 0."
        )
    if routed["gender"].size != len(GENDERS):
        raise UserError("config.heads.gender.undefined is not for config.model.backbone='routed'; set it to False.")
    return routed


def combined_heads(heads: Mapping[str, Head]) -> dict[str, Head]:
    """Returns the heads of the targets that are combined from several heads, by the targets' names."""
    return {
        f"{name}_{way}": dataclasses.replace(male, only_gender=None, class_weights=None)
        for name, (_, male), _ in _pairs(heads)
        for way in ("predicted", "soft", "true")
    }


def combined_labels(heads: Mapping[str, Head], labels: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the labels of `combined_heads`, `[n]`: the age of the examples whose gender is known."""
    combined: dict[str, np.ndarray] = {}
    for name, (male_name, male), (female_name, _) in _pairs(heads):
        label = np.where(male.known(labels[male_name]), labels[male_name], labels[female_name])
        combined |= dict.fromkeys((f"{name}_predicted", f"{name}_soft", f"{name}_true"), label)
    return combined


def combined_distributions(
    heads: Mapping[str, Head], distributions: Mapping[str, np.ndarray], labels: Mapping[str, np.ndarray] | None = None
) -> dict[str, np.ndarray]:
    """Returns the distributions of `combined_heads`, float32 `[n, ...]`; those by the true gender only with labels."""
    combined = {}
    for name, (male, _), (female, female_head) in _pairs(heads):
        gender = distributions["gender"]
        by_gender = distributions[male], distributions[female]
        is_female = heads["gender"].decode(gender)["class"] == GENDERS.index("female")
        combined[f"{name}_predicted"] = np.where(is_female[:, None], by_gender[1], by_gender[0])
        combined[f"{name}_soft"] = gender[:, :1] * by_gender[0] + gender[:, 1:] * by_gender[1]
        if labels is not None:
            is_female = female_head.known(labels[female])
            combined[f"{name}_true"] = np.where(is_female[:, None], by_gender[1], by_gender[0])
    return combined


def _pairs(heads: Mapping[str, Head]) -> Iterator[tuple[str, tuple[str, Any], tuple[str, Any]]]:
    """Yields the names of the heads that are there for either gender, and of each of the two its own name and head."""
    by_gender = {(head.name, head.only_gender): (name, head) for name, head in heads.items()}
    for name, gender in by_gender:
        if gender == GENDERS[0]:
            yield name, by_gender[name, GENDERS[0]], by_gender[name, GENDERS[1]]
