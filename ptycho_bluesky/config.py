"""Settings: one typed tree, from defaults, a TOML file and the environment (strongest last)."""

from __future__ import annotations

import os
import re
import tomllib
from functools import cache
from pathlib import Path

import platformdirs
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from ptycho_bluesky._resources import Resource
from ptycho_bluesky.errors import ConfigurationError, report

__all__ = ["ScanLimits", "Settings", "settings"]


def _settings_file() -> Path:
    given = os.environ.get("PTYCHO_BLUESKY_CONFIG")
    return Path(given) if given else platformdirs.user_config_path("ptycho-bluesky") / "settings.toml"


class ScanLimits(BaseModel):
    """What a scan may cost; one that would pass a limit, or cannot be told not to, is refused before anything moves."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_seconds: float | None = Field(default=None, gt=0)
    """Of the whole scan, seconds; None for no limit, here and below."""

    max_fluence_photons_m2: float | None = Field(default=None, gt=0)
    """Photons per square metre of the scanned field."""

    max_dose_gy: float | None = Field(default=None, gt=0)
    """Energy absorbed by the sample's mass, gray."""

    max_data_bytes: int | None = Field(default=None, gt=0)
    """Of the frames, uncompressed."""

    min_overlap: float | None = Field(default=None, ge=0, lt=1)
    """Linear overlap of neighbouring probes."""


class Settings(BaseSettings):
    """Where things are kept and reached.

    Each field can be set in ``settings.toml`` (``$PTYCHO_BLUESKY_CONFIG`` or the user's configuration folder)
    or by the environment variable ``PTYCHO_BLUESKY_<FIELD>``, which wins. Unknown keys are refused.
    """

    model_config = SettingsConfigDict(env_prefix="PTYCHO_BLUESKY_", extra="forbid", frozen=True)

    home: Path = Field(default_factory=lambda: platformdirs.user_data_path("ptycho-bluesky"))
    """Folder of everything that is kept: jobs, ledger, models, the embedded Tiled server's data."""

    data: Path | None = None
    """Folder of measured data for tests and benchmarks; None where there is none."""

    tiled_uri: str | None = None
    """Tiled server to write to and read from; None starts the embedded one in ``home``."""

    tiled_api_key: SecretStr | None = None
    """API key for ``tiled_uri``; best given by the environment, never in a file that others can read."""

    tiled_idle_s: float = Field(default=900.0, gt=0)
    """Seconds without a request, and without a process connected to it, after which the embedded server ends."""

    tiled_patience_s: float = Field(default=30.0, gt=0)
    """Seconds that a finished job waits for Tiled; after that its result stays in its folder until Tiled is back."""

    partial_images_s: float = Field(default=3.0, ge=0)
    """Seconds between two images of a running reconstruction in Tiled; 0 for none."""

    limits: ScanLimits = ScanLimits()
    """What a scan may cost, where the plan is given no limits; in the environment as JSON."""

    resources: dict[str, Resource] = Field(default_factory=dict)
    """Places where jobs can run, by name, besides this machine, which is ``local`` and need not be described."""

    threads: int = Field(default_factory=lambda: os.cpu_count() or 1, ge=1)
    """CPU threads that a reconstruction or a training may use."""

    dispatcher_uri: str | None = Field(default=None, pattern=r"^https?://[^/@\s]+$")
    """Dispatcher service to submit jobs to, e.g. ``https://server:8790``; None for the one of this ``home``, where it
    runs, else this machine does without."""

    dispatcher_key: SecretStr | None = Field(default=None, min_length=32)
    """Key of the dispatcher service; best given by the environment. One on loopback makes its own."""

    retries: int = Field(default=2, ge=0, le=20)
    """How often the dispatcher service starts a job again whose machine failed; 0 for never."""

    keep_days: float | None = Field(default=None, gt=0)
    """Days after which the dispatcher service deletes the large files of ended jobs whose results are in Tiled; None
    for never."""

    heartbeat_s: float = Field(default=2.0, gt=0, le=60)
    """Seconds between two signs of life of a running job."""

    lost_after_s: float = Field(default=60.0, gt=0)
    """Seconds without a sign of life after which a job counts as lost."""

    @field_validator("home")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()  # other processes of ours start in other folders

    @field_validator("resources")
    @classmethod
    def _named(cls, value: dict[str, Resource]) -> dict[str, Resource]:
        if wrong := [name for name in value if not re.fullmatch(r"[\w-]{1,40}", name) or name in ("auto", "cpu")]:
            raise ValueError(f"{', '.join(wrong)}: take 1 to 40 letters, digits, - and _, other than 'auto' and 'cpu'")
        if wrong := [name for name, found in value.items() if (name == "local") != (found.kind == "local")]:
            raise ValueError(f"{', '.join(wrong)}: this machine, and nothing else, is named 'local' and of that kind")
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Order of strength: arguments, environment, TOML file."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, _settings_file())


@cache
def settings() -> Settings:
    """Return this process's settings, read once; ``settings.cache_clear()`` reads them anew.

    Raises
    ------
    ConfigurationError
        When a value is out of range, a key is unknown, or the file that ``$PTYCHO_BLUESKY_CONFIG`` names cannot be
        read.
    """
    path = _settings_file()
    if "PTYCHO_BLUESKY_CONFIG" in os.environ and not path.is_file():
        raise ConfigurationError(f"PTYCHO_BLUESKY_CONFIG names {path}, which does not exist; correct or unset it")
    faults = _unknown_variables()
    try:
        given = Settings()
    except ValidationError as error:
        faults += [_in_words(e) for e in error.errors()]
    except tomllib.TOMLDecodeError as error:
        faults.append(f"the file is no valid TOML: {error}")
    except OSError as error:
        faults.append(f"the file cannot be read: {error.strerror}")
    if faults:
        raise ConfigurationError(report(f"settings in {path} or the environment", faults))
    return given


def _unknown_variables() -> list[str]:
    prefix = "PTYCHO_BLUESKY_"
    allowed = [prefix + name.upper() for name in Settings.model_fields] + [prefix + "CONFIG"]
    given = sorted(key for key in os.environ if key.upper().startswith(prefix) and key.upper() not in allowed)
    return [f"{key}: not known; allowed are {', '.join(allowed)}" for key in given]


def _in_words(error: ErrorDetails) -> str:
    key = ".".join(map(str, error["loc"]))
    secret = key.startswith(("tiled_api_key", "dispatcher_key"))
    return f"{key}: {error['msg']} (given {'a value that is not shown' if secret else repr(error['input'])})"
