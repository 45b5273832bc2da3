"""The type checker that runs behind every annotated function while tests run: shapes included."""

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float
