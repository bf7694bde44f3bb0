"""The config: frozen sections with checked values, read from YAML and dotted overrides."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, Literal, Optional, Tuple, Union

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    NonNegativeInt,
    PositiveInt,
    PrivateAttr,
    Tag,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from typing_extensions import Annotated, get_args

from segtrain import config_file
from segtrain.errors import UserError, nearest
from segtrain.plugins import explain

SIGNAL_AUGMENT = ["scale(0.7, 1.4)", "stretch(0.8, 1.25)", "noise(0.1)"]


class Section(BaseModel):
    """A frozen part of the config in which an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_switch(cls, value: Any, info: ValidationInfo) -> Any:
        """pydantic takes true for 1: early_stop=true would stop after one evaluation."""
        if isinstance(value, bool) and _is_number(cls.model_fields[str(info.field_name)].annotation):
            raise ValueError("not yes or no, but a number")
        return value


def _is_number(annotation: Any) -> bool:
    return annotation in (int, float) or any(map(_is_number, get_args(annotation)))


class Named(Section):
    """A section that names a plugin; keys that aren't its own are the plugin's options."""

    model_config = ConfigDict(extra="allow")

    @property
    def options(self) -> Dict[str, Any]:
        return dict(self.model_extra or {})


class Model(Named):
    """The network; the other keys are options of ``segtrain/models/NAME.py``."""

    name: str = Field("unet", description="a module of segtrain.models")
    classes: Optional[int] = Field(None, description="number of classes, where there is no data", ge=1)
    in_channels: int = Field(3, description="channels of an image", ge=1)
    dim: Literal[1, 2] = Field(2, description="1 for signals, 2 for images")
    norm: Literal["batch", "sync", "group", "none"] = Field(
        "batch", description="normalisation; sync is batch norm over all devices"
    )
    up: Literal["deconv", "bilinear", "nearest"] = Field("deconv", description="upsampling")
    weights: Optional[str] = Field(
        None, description="all weights to begin with: a run, whose best are taken, or a .params file"
    )
    encoder_params: Optional[str] = Field(
        None, description="weights of the encoder: a .params file, or 'pretrained' (GluonCV's hub)"
    )
    fold: Literal[1, 2, 4] = Field(
        1, description="work at 1/fold of the resolution: pixels fold into channels, scores unfold"
    )

    @model_validator(mode="after")
    def _fits(self) -> Model:
        if self.fold > 1 and self.dim == 1:
            raise ValueError("model.fold is for images (model.dim=2)")
        if self.weights and self.encoder_params:
            raise ValueError("model.weights has the encoder's too: leave model.encoder_params out")
        return self


class Data(Named):
    """The dataset and how it is fed; the other keys are options of ``segtrain/data/NAME.py``."""

    name: str = Field("folder", description="a module of segtrain.data")
    crop: Tuple[int, ...] = Field(
        (256, 256), description="height, width of a training crop; of signals its length: [1024]"
    )
    augment: List[str] = Field(
        ["scale(0.5, 2)", "flip", "color(0.2)"],
        description="what changes a sample, in this order: see the README's table",
        json_schema_extra={"items": {"type": ["string", "number"]}},  # scale(0.5, 2), as YAML splits it
    )
    workers: Union[Literal["auto"], NonNegativeInt] = Field("auto", description="loader processes")
    foreground: float = Field(
        0, ge=0, le=1, description="share of crops that are placed about a class other than the first"
    )
    cat_max_ratio: float = Field(
        1, gt=0, le=1, description="crops are drawn again, 10 times at most, while a class fills more"
    )
    cache: Literal["none", "ram", "disk"] = Field(
        "none", description="keep decoded samples: in memory, or on the disk from run to run"
    )
    mean: Optional[List[float]] = Field(None, description="per channel; null: ImageNet's, for signals 0")
    std: Optional[List[float]] = Field(None, description="per channel; null: ImageNet's, for signals 1")

    @field_validator("augment", mode="before")
    @classmethod
    def _whole_calls(cls, texts: Any) -> Any:
        """[scale(0.5, 2), flip] as it is meant: YAML splits it at each comma."""
        if not isinstance(texts, list):
            return texts
        calls: List[str] = []
        for text in map(str, texts):
            if calls and calls[-1].count("(") > calls[-1].count(")"):
                calls[-1] += f", {text}"
            else:
                calls.append(text)
        return calls

    @field_validator("crop")
    @classmethod
    def _positive(cls, crop: Tuple[int, ...]) -> Tuple[int, ...]:
        if not 1 <= len(crop) <= 2 or min(crop) < 1:
            raise ValueError("height and width, or the length of a signal, must be positive")
        return crop


# The weight of a loss, or its weight and its options: an error speaks of the one that was meant.
LossTerm = Annotated[
    Union[Annotated[float, Tag("weight")], Annotated[Dict[str, Any], Tag("options")]],
    Discriminator(lambda value: "options" if isinstance(value, dict) else "weight"),
]


class Train(Section):
    """The optimisation."""

    epochs: int = Field(40, ge=1, description="passes over the training split")
    batch: Union[Literal["auto"], PositiveInt] = Field(
        8, description="images per step, over all devices; auto: as many as the memory holds, up to 64"
    )
    accumulate: int = Field(
        1, ge=1, description="passes that each batch is split into, to need less memory at once"
    )
    recompute: bool = Field(
        False, description="keep little of the forward pass and run it twice: slower, in less memory"
    )
    lr: float = Field(0.01, gt=0, description="learning rate after the warm-up")
    encoder_lr: float = Field(1, ge=0, description="lr of an encoder with weights, in parts of lr")
    freeze_encoder_epochs: int = Field(0, ge=0, description="first epochs that keep its weights")
    optimizer: Literal["sgd", "nag", "adam", "adamw", "lamb", "rmsprop", "adagrad"] = Field(
        "sgd", description="how gradients become updates; nag is sgd with Nesterov's momentum"
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="of sgd and nag; beta1 of adam, adamw, lamb")
    beta2: Optional[float] = Field(
        None,
        gt=0,
        lt=1,
        description="decay of the mean squared gradient; null: 0.999, of rmsprop 0.9",
    )
    weight_decay: float = Field(1e-4, ge=0, description="not on norms and biases")
    schedule: Literal["poly", "cosine", "step", "constant", "exponential", "onecycle", "plateau"] = (
        Field("poly", description="how the learning rate goes on after the warm-up")
    )
    final_lr: float = Field(
        0,
        ge=0,
        le=1,
        description="the last lr of poly, cosine, exponential, onecycle, and the least of plateau, in "
        "parts of lr",
    )
    warmup: float = Field(0, ge=0, description="epochs of linear warm-up from lr / 100")
    power: float = Field(0.9, gt=0, description="exponent of the poly schedule")
    milestones: List[float] = Field([0.6, 0.85], description="shares of the run: lr / 10 at each")
    patience: int = Field(
        5, ge=1, description="of plateau: evaluations without a better mIoU before lr falls"
    )
    factor: float = Field(0.1, gt=0, lt=1, description="of plateau: what lr is multiplied by")
    loss: Dict[str, LossTerm] = Field(
        {"ce": 1.0}, description="weight of each loss; or {ce: {weight: 1, smoothing: 0.1}}"
    )
    aux_weight: float = Field(
        0.4, ge=0, description="of each auxiliary head's loss; 0.4: Zhao et al. 2017, section 3.3"
    )
    class_weights: Union[Literal["none", "median", "enet"], List[float]] = Field(
        "none",
        description="of the losses: by the classes' frequencies (Eigen & Fergus 2015; Paszke et al. "
        "2016), or a list",
    )
    clip: float = Field(0, ge=0, description="largest L2 norm of the gradient; 0: any")
    ema: float = Field(
        0, ge=0, lt=1, description="decay of the averaged weights that are judged and kept; 0: none"
    )
    early_stop: int = Field(0, ge=0, description="evaluations without a better mIoU; 0: never stop")
    freeze_batch_norm: Literal["none", "encoder", "all"] = Field(
        "none", description="batch norms that keep the statistics and scales they begin with"
    )
    precision: Literal["float32", "float16"] = Field(
        "float32", description="float16: for GPUs, with float32 master weights and loss scaling"
    )
    on_nan: Literal["stop", "rollback"] = Field(
        "stop", description="rollback: to the last checkpoint, at half the learning rate"
    )
    kvstore: Literal["device", "local", "nccl"] = Field("device", description="sum of gradients")
    log_every: int = Field(10, ge=1, description="steps between readings of the loss")

    @field_validator("kvstore", mode="before")
    @classmethod
    def _of_this_process(cls, name: Any) -> Any:
        """MXNet takes any name, and other stores than these for local ones or with wrong sums."""
        if isinstance(name, str) and ("dist" in name or name in ("horovod", "byteps", "p3")):
            raise ValueError(
                f"{name} isn't set in the config: kvstore sums over the devices of one process, and "
                "`segtrain launch` brings the store that sums over several"
            )
        return name

    @field_validator("milestones")
    @classmethod
    def _shares(cls, milestones: List[float]) -> List[float]:
        fits = all(0 < m < 1 for m in milestones) and milestones == sorted(set(milestones))
        if not milestones or not fits:
            raise ValueError("milestones are one or more rising shares of the run, between 0 and 1")
        return milestones

    @model_validator(mode="after")
    def _have_a_part(self) -> Train:
        """What is set has an effect."""
        if self.schedule == "exponential" and not self.final_lr:
            raise ValueError("train.schedule=exponential never reaches 0: set train.final_lr=0.01")
        if self.schedule in ("step", "constant") and self.final_lr:
            raise ValueError(f"train.schedule={self.schedule} has no train.final_lr: write 0")
        if self.schedule == "plateau" and 0 < self.early_stop <= self.patience:
            raise ValueError(
                f"train.early_stop={self.early_stop} ends the run before train.patience={self.patience} "
                f"lowers the rate: set train.early_stop={3 * self.patience}"
            )
        if self.optimizer in ("sgd", "nag", "adagrad") and self.beta2 is not None:
            raise ValueError(f"train.optimizer={self.optimizer} has no train.beta2: write null")
        return self


class Checkpoint(Section):
    """When a run is saved, besides at the end of each epoch."""

    every_steps: int = Field(0, ge=0, description="steps between saves in an epoch; 0: none")
    every_minutes: float = Field(0, ge=0, description="minutes between saves in an epoch; 0: none")
    keep: int = Field(0, ge=0, description="newest epochs whose weights are kept besides last and best")


class Eval(Section):
    """The evaluations during training, and the policy that `segtrain eval` starts from."""

    every: int = Field(1, ge=1, description="epochs between evaluations; the last one always is")
    scales: List[float] = Field([1.0], description="sizes whose probabilities are averaged")
    flip: bool = Field(False, description="average with the mirrored image")
    window: Optional[int] = Field(
        None, ge=0, description="side of a sliding window; 0: whole; null: whole up to 4 megapixels"
    )
    overlap: float = Field(0.5, ge=0, lt=1, description="share of a window that the next one covers")
    blend: Literal["gaussian", "uniform"] = Field("gaussian", description="weight within a window")
    tolerance_ms: float = Field(150, gt=0, description="of onsets and offsets of signals")

    @field_validator("scales")
    @classmethod
    def _some(cls, scales: List[float]) -> List[float]:
        if not scales or not all(0 < scale < 100 for scale in scales):
            raise ValueError("scales are one or more positive numbers, like [0.75, 1, 1.25]")
        return scales


class Config(Section):
    """One run, whole: `segtrain train` is a function of this."""

    seed: int = Field(0, ge=0, description="of the weights, the order and the augmentation")
    model: Model = Field(Model(), description="the network")
    data: Data = Field(Data(), description="the dataset and how it is fed")
    train: Train = Field(Train(), description="the optimisation")
    checkpoint: Checkpoint = Field(Checkpoint(), description="when a run is saved")
    eval: Eval = Field(Eval(), description="the evaluations")

    _origins: Dict[str, str] = PrivateAttr(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _of_signals(cls, values: Any) -> Any:
        """Signals have defaults of their own for the crop and the augmentation."""
        model, data = values.get("model"), values.get("data", {})
        if not (isinstance(model, dict) and model.get("dim") == 1 and isinstance(data, dict)):
            return values
        return {**values, "data": {"crop": [1024], "augment": SIGNAL_AUGMENT, **data}}

    @model_validator(mode="after")
    def _one_dimension(self) -> Config:
        crop, dim = list(self.data.crop), self.model.dim
        if len(crop) != dim:
            fitting = crop[-1:] if dim == 1 else crop * 2
            raise ValueError(
                f"data.crop={crop} and model.dim={dim} don't go together: write data.crop={fitting}, "
                f"or model.dim={len(crop)}"
            )
        if dim == 1 and (self.eval.scales != [1.0] or self.eval.flip or self.eval.window):
            raise ValueError("eval.scales, flip and window are for images (model.dim=2)")
        if dim == 1 and (self.data.foreground or self.data.cat_max_ratio < 1):
            raise ValueError("data.foreground and cat_max_ratio are for images (model.dim=2)")
        return self

    @classmethod
    def sections(cls) -> List[str]:
        """The keys that hold a section."""
        fields = cls.model_fields.items()
        return [name for name, field in fields if isinstance(field.default, BaseModel)]

    def origin(self, key: str) -> str:
        """Where the value of a dotted key comes from: a file, an override, or 'default'."""
        return self._origins.get(key, "default")


def load(path: Path, overrides: List[str] = []) -> Config:
    """The config in the YAML file `path`, on top of its `base`, with ``a.b=c`` on top of both.

    UserError for a missing or unreadable file, an unknown key, or a value out of range.
    """
    origins: Dict[str, str] = {}
    values = config_file.read(Path(path), Config.sections(), origins)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise UserError(f"{override!r}: an override is KEY=VALUE, like train.lr=0.01")
        value = _parse(text, override)
        _set(values, key.split("."), value)
        _note(origins, key, value, f"override {override}")
    config = parse(values, str(path))
    config._origins.update(origins)
    return config


def parse(values: Dict[str, Any], where: str = "config") -> Config:
    """The config of nested dicts; UserError names `where`, the key and the nearest known ones."""
    _check_keys(values, Config, "", where)
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{where}: {explain(error)}") from None


def dump(config: Config) -> str:
    """The config as YAML, every value included, with where it comes from as a comment."""
    lines = []
    for name, value in config.model_dump(mode="json").items():
        if not isinstance(value, dict):
            lines.append(f"{name}: {inline(value)}  # {_comment(config, name)}")
            continue
        lines.append(f"{name}:")
        for key, inner in value.items():
            lines.append(f"  {key}: {inline(inner)}  # {_comment(config, f'{name}.{key}')}")
    return "\n".join(lines) + "\n"


def _comment(config: Config, key: str) -> str:
    return " ".join(config.origin(key).split())


def inline(value: Any) -> str:
    """A value as YAML on one line."""
    text = yaml.safe_dump(
        value, sort_keys=False, default_flow_style=True, width=float("inf"), allow_unicode=True
    )
    return text.replace("\n...\n", "").strip()


def _parse(text: str, override: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(f"{override!r}: the value is not YAML") from None


def _set(values: Dict[str, Any], keys: List[str], value: Any) -> None:
    for key in keys[:-1]:
        inner = values.get(key)
        values[key] = dict(inner) if isinstance(inner, dict) else {}
        values = values[key]
    values[keys[-1]] = value


def _note(origins: Dict[str, str], key: str, value: Any, origin: str) -> None:
    """Write down where a key's value comes from; a whole section's replaces what was there."""
    section, *inner = key.split(".")[:2]
    if inner or not isinstance(value, dict):
        origins[".".join([section, *inner])] = origin
        return
    for known in [k for k in origins if k.startswith(f"{section}.")]:
        del origins[known]
    origins.update({f"{section}.{name}": origin for name in value})


def _check_keys(values: Dict[str, Any], section: type, prefix: str, where: str) -> None:
    fields = section.model_fields  # type: ignore[attr-defined]
    for key, value in values.items():
        if key not in fields and section.model_config["extra"] == "forbid":  # type: ignore[attr-defined]
            raise UserError(f"{where}: no key {prefix}{key}; {nearest(str(key), fields)}")
        inner = fields[key].annotation if key in fields else None
        if isinstance(inner, type) and issubclass(inner, BaseModel) and isinstance(value, dict):
            _check_keys(value, inner, f"{prefix}{key}.", where)
