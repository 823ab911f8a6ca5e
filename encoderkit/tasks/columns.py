"""How the columns that a task reads are named, for messages about one that is not there. No torch."""

from encoderkit.tasks.config import TaskConfig
from encoderkit.tasks.token_config import TagConfig


def ways(task: TaskConfig) -> dict[str, str]:
    """How to name another column in place of each that the task reads."""
    read, given = {*task.all_columns, *task.optional_columns}, task.model_dump(exclude={"kind"})
    named = [(key, column) for key, value in given.items() for column in (value if isinstance(value, list | tuple) else [value])]
    named += [(key, key) for key in given]  # of a column that is read where no other is given
    # Another key may hold the same word (pooling: mean); those of columns come first.
    found = {column: f"--set task.{key}=NAME" for key, column in reversed(named) if isinstance(column, str) and column in read}
    if not isinstance(task, TagConfig):
        return found
    words = "of words and their tags, --set task.text=null --set task.spans=null --set task.tokens=NAME --set task.tags=NAME"
    texts = "of texts with entities, --set task.tokens=null --set task.tags=null --set task.text=NAME --set task.spans=NAME"
    return {column: f"{way}; or, {texts if task.text is None else words}" for column, way in found.items()}
