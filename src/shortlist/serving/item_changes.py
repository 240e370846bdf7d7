"""Items added, removed and restored in the bundle that is served, until the next bundle comes."""

from dataclasses import replace

from shortlist.asking.capabilities import ChangesItems
from shortlist.errors import BundleError, ModelError, ShortlistError
from shortlist.serving.messages import ItemsRequest, RequestError, read
from shortlist.serving.served import Served, check_ids
from shortlist.serving.service import encode
from shortlist.serving.watching import Watch


def change_items(watch: Watch, model: type[ItemsRequest], body: bytes) -> bytes:
    """Make the changes that a request asks for, all or none, and return the answer as JSON.

    The changed bundle is made beside the one that is served, tested, and takes its place by one
    reference, as a new bundle does. Errors: RequestError.
    """
    asked = read(model, body)
    if not (asked.add or asked.remove or asked.restore):
        raise RequestError("invalid_request", "give items to add, remove or restore")
    try:
        served = watch.change(lambda served: _changed(served, asked))
    except BundleError as error:
        raise RequestError("invalid_request", f"nothing was changed: {error}") from None
    answer = {
        "bundle": served.id,
        "items": len(served.retriever.candidate_rows()),
        "removed": len(served.data.removed),
    }
    return encode(answer)


def _changed(served: Served, asked: ItemsRequest) -> Served:
    retriever, items = served.retriever, served.data.items
    if not isinstance(retriever, ChangesItems):
        raise RequestError(
            "not_supported",
            f"the items of this bundle ({served.kind}) change with the next bundle only; "
            "`deny` leaves items out of an answer",
        )
    remove = check_ids(asked.remove, items, "remove")
    restore = check_ids(asked.restore, items, "restore")
    try:
        changed = retriever.change_items(add=asked.add, remove=remove, restore=restore)
    except ModelError as error:
        raise RequestError("not_supported", str(error)) from None
    except ShortlistError as error:
        raise RequestError("invalid_request", str(error)) from None
    return Served(replace(served.bundle, retriever=changed), served.directory, served.loaded_at)
