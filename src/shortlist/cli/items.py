"""The commands for item changes that a service stores: items changes, items revert."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from shortlist.cli.options import JsonFlag
from shortlist.cli.screen import notes, out, print_json
from shortlist.errors import QueryError

if TYPE_CHECKING:
    from shortlist.histories.items import ItemStore

VALUES = 5
"""Values of a change that are printed; --json prints up to a thousand."""

items = typer.Typer(
    help="Changes of items (POST /admin/items) that `serve --events` has stored.",
    no_args_is_help=True,
)
StorePath = Annotated[
    str,
    typer.Argument(help="The event store of `serve --events`: a file, or redis://HOST:PORT/DB."),
]


@items.callback()
def group() -> None:
    """Changes of items (POST /admin/items) that `serve --events` has stored."""


@items.command()
def changes(
    store: StorePath,
    before: Annotated[
        int | None,
        typer.Option(min=1, max=2**63 - 1, help="Only changes with smaller numbers than this."),
    ] = None,
    limit: Annotated[
        int, typer.Option(min=1, max=10**6, help="Largest number of changes to list.")
    ] = 20,
    json_: JsonFlag = False,
) -> None:
    """List changes, newest first: the item, the new values, and whether it was reverted."""
    from shortlist.histories.events import Watermark
    from shortlist.histories.items import shown_part

    opened = _opened(store)
    number, identity = opened.number(), opened.identity
    found = opened.changes(2**63 - 1 if before is None else before, limit, 1_000)
    opened.close()
    if json_:
        listed = [
            {
                **one._asdict(),
                "values": [
                    {"item": each.item, "part": shown_part(each.part), "value": each.value}
                    for each in one.values
                ],
            }
            for one in found
        ]
        print_json({"watermark": str(Watermark(identity, number)), "changes": listed})
        return
    for one in found:
        at = datetime.fromtimestamp(one.arrived / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S")
        named = "" if one.id is None else f", id {one.id}"
        if one.undoes is not None:
            said = f"reverts change {one.undoes}"
        else:
            said = "; ".join(
                f"{each.item} {shown_part(each.part)} {each.value!r:.60}"
                for each in one.values[:VALUES]
            )
            more = one.total - VALUES
            said += f"; and {more:,} more" if more > 0 else ""
        back = "" if one.undone is None else f" (reverted by change {one.undone})"
        out.print(f"{one.number}  {at} UTC{named}: {said}{back}", soft_wrap=True)
    if not found:
        notes.print("The store has no change.")


@items.command()
def revert(
    store: StorePath,
    change: Annotated[int, typer.Argument(min=1, max=2**63 - 1, help="Number of the change.")],
) -> None:
    """Revert a change; running services apply that within half a second."""
    from shortlist.histories.items import ChangeConflictError

    opened = _opened(store)
    try:
        kept = opened.revert(change)
    except ChangeConflictError as error:
        raise QueryError(str(error)) from None
    finally:
        opened.close()
    was = "had already been" if kept.repeated else "is"
    notes.print(f"Change {change} {was} reverted, by change {kept.number}.")


def _opened(store: str) -> "ItemStore":
    """Open an existing store. Errors: QueryError, EventStoreError."""
    from shortlist.histories.places import items_at, place_of

    return items_at(place_of(store))
