"""Settings from ``.env``, under the guide's names."""

from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_file=".env", extra="ignore")

    DATABASE_URL: str
    ENCRYPTION_KEY: str = ""
    OLD_ENCRYPTION_KEY: str = ""
    PGCRYPTO_KEY: str = ""
    VEILSTREAM_CONFIG: str = "veilstream.toml"
