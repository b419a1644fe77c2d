"""The `mallee` command: one file per group of subcommands."""

from __future__ import annotations

import typer

from cli import accounts, credentials, images, lifecycle, status, walrus

app = typer.Typer(
    help="A private cloud that speaks AWS.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command()(lifecycle.up)
app.command()(lifecycle.down)
app.command()(lifecycle.destroy)
app.command()(status.status)
app.command()(status.nodes)
app.command()(credentials.credentials)
app.add_typer(accounts.app, name="accounts")
app.add_typer(images.app, name="images")
app.add_typer(walrus.app, name="walrus")

if __name__ == "__main__":
    app(prog_name="mallee")
