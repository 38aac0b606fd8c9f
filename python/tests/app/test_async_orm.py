"""Async sessions, by asyncpg and psycopg."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from models import Note, Person, Vault
from pg import Postgres
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import load_only, selectinload
from world import Service, World

from veilstream import AsyncVeil, Veil
from veilstream.sqlalchemy import NotSearchable, attach

pytestmark = pytest.mark.usefixtures("engine", "ahead")


def run(postgres: Postgres, driver: str, main: Callable[[AsyncEngine], Awaitable[None]]) -> None:
    async def all_of_it() -> None:
        engine = create_async_engine(postgres.url(driver))
        try:
            await main(engine)
        finally:
            await engine.dispose()

    asyncio.run(all_of_it())


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
def test_entities(postgres: Postgres, veil: Veil, world: World, driver: str) -> None:
    async def main(engine: AsyncEngine) -> None:
        attach(engine, veil)
        with veil.purpose("support"):
            async with AsyncSession(engine) as session, session.begin():
                session.add_all(
                    [
                        Person(id=n, mail=f"{n}@x.org", ssn=f"1{n}", notes=[Note(text=f"note {n}")])
                        for n in range(1, 121)
                    ]
                )
            before = len(world.audited())
            async with AsyncSession(engine) as session:
                people = (await session.scalars(select(Person).order_by(Person.id))).all()
                assert [person.mail for person in people] == [f"{n}@x.org" for n in range(1, 121)]
            lines = [line for line in world.audited()[before:] if line["event"] == "reveal"]
            assert len(lines) == 1 and lines[0]["items"] == 240
            async with AsyncSession(engine) as session:
                query = select(Person).where(Person.mail == "7@X.org")
                found = (await session.scalars(query.options(selectinload(Person.notes)))).one()
                assert (found.id, found.notes[0].text) == (7, "note 7")
                ssn = select(func.count()).select_from(Person).where(Person.ssn == "1-7")
                assert await session.scalar(ssn) == 1
                found.mail = "changed@x.org"
                await session.commit()
                await session.refresh(found)
                assert found.mail == "changed@x.org"
                with pytest.raises(NotSearchable):
                    await session.scalars(query.limit(1))
                # Compared with what was read: neither loader options nor later changes count.
                changed = select(Person).where(Person.mail == "changed@x.org")
                rows = await session.scalars(changed)
                with session.no_autoflush:
                    found.mail = "later@x.org"
                    assert [person.id for person in rows] == [7]
                    await session.refresh(found)
                session.expunge_all()
                sparse = changed.options(load_only(Person.id))
                assert [person.id for person in await session.scalars(sparse)] == [7]
                streamed = await session.stream_scalars(sparse)
                assert [person.id async for person in streamed] == [7]
                stream = await session.stream_scalars(select(Person).order_by(Person.id))
                assert len([person.mail async for person in stream]) == 120

    run(postgres, driver, main)


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
def test_sealed_values_of_a_service(
    postgres: Postgres, world: World, service: Service, app_key: Path, driver: str
) -> None:
    async def main(engine: AsyncEngine) -> None:
        url = f"http://{service.address}"
        schemas = world.folder / "schemas"
        async with AsyncVeil.connect(url, token=app_key, schemas=schemas) as veil:
            maker = async_sessionmaker(engine, expire_on_commit=False)
            attach(maker, veil.veil)
            with veil.purpose("support"):
                async with maker() as session, session.begin():
                    session.add_all([Vault(id=n, iban=f"DE{n}", ssn=f"1{n}") for n in range(5)])
                async with maker() as session:
                    found = (await session.scalars(select(Vault).where(Vault.ssn == "1-3"))).one()
                    assert found.iban is not None
                    assert await found.iban.reveal_async() == "DE3"
                    assert await found.iban.reveal_async(veil) == "DE3"

    run(postgres, driver, main)
