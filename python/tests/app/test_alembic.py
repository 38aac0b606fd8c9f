"""Migrations name plain columns: they run without this package and without keys."""

from __future__ import annotations

from alembic.autogenerate import api as autogenerate
from alembic.migration import MigrationContext
from alembic.operations import Operations
from models import Base
from sqlalchemy import Engine, text

from veilstream.alembic import render_item


def test_a_migration_needs_no_keys(engine: Engine) -> None:
    Base.metadata.drop_all(engine)
    options = {"render_item": render_item, "target_metadata": Base.metadata}
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts=options)
        script = autogenerate.produce_migrations(context, Base.metadata)
        assert script.upgrade_ops is not None
        code = autogenerate.render_python_code(
            script.upgrade_ops, render_item=render_item, migration_context=context
        )
        assert "veilstream" not in code and "sa.Column('mail', sa.Text(collation='C')" in code, code
        names: dict[str, object] = {"op": Operations(context)}
        exec("import sqlalchemy as sa\n" + _dedented(code), names)
        connection.commit()
        # What was made is what the models say.
        again = autogenerate.produce_migrations(context, Base.metadata)
        assert again.upgrade_ops is not None
        assert again.upgrade_ops.is_empty(), again.upgrade_ops.as_diffs()
        collation = connection.execute(
            text(
                "SELECT collation_name FROM information_schema.columns"
                " WHERE table_name = 'people' AND column_name = 'mail'"
            )
        )
        assert collation.scalar_one() == "C"


def _dedented(code: str) -> str:
    return "\n".join(line.removeprefix("    ") for line in code.splitlines())
