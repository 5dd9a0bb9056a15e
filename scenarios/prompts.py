"""Prompts that no server can have seen before and that make a model write long."""

import functools
import hashlib
import random
from typing import Final

# Common words: one token each, or two, in the vocabularies we measure.
_LIST = """
able about above across acid actor after again agree ahead alone along amber among angel anger angle
animal answer apple april arrow artist autumn baby bake ball band bank barn basket beach bean bear
beauty become begin behind bell bench berry best better bird blanket blue board boat body bone book
border bottle bottom bread break brick bridge bright bring broken brother brown brush bucket build
butter button cabin cable camera camp candle canvas captain carry castle cattle center chain chair
cherry chief child church circle citizen city clean clear clever climb clock cloth cloud coach coast
coffee cold color common cookie copper corner cotton country couple courage cousin cover create
creek crowd crown culture curtain daily dance danger daughter dawn deep deer desert desk dinner
doctor door double dragon dream dress drink drive early earth east echo edge eight elbow empty engine
enjoy evening every eye fabric face fair family famous farmer father feather fence field fifty finger
fire first fish flag flame floor flower follow forest forget fork forty fresh friend front fruit
future garden garlic gate gentle giant gift glass glove goat gold good grain grand grass gray great
green ground group guest guide guitar hammer hand happy harbor harvest heart heavy hello helmet
hidden high hill history hold hollow honest honey horse hotel hour house hungry hunter island jacket
jewel join journey judge juice jungle just kettle king kitchen kitten knee knife ladder lady lake
lamp land large laugh leaf learn leather left lemon letter level light linen lion listen little lively
"""
WORDS: Final = tuple(_LIST.split())


SYSTEM: Final = "You are a helpful assistant."
"""Said in every request: without it some templates put in a system message of their own and others none, and the same
question would be a longer prompt to one engine than to the other."""


def prompt(seed: int, user: int, index: int, words: int) -> str:
    """The request that `user` makes as its number `index`, the same for the same arguments.

    The nonce comes first, since prefix caches match from the start: were it last, the server would
    compute only the end of the prompt. `words` counts what follows the request itself.
    """
    nonce = _nonce(f"{seed}/{user}/{index}")
    return f"{nonce} Write an endless story in every detail with all of these words: {_drawn(nonce, words)}"


@functools.cache
def system(seed: int, *, shared_words: int) -> str:
    """The system message of a cell; with `shared_words` as long as the documents that many requests share.

    Its own nonce keeps what an earlier cell left in a prefix cache from being found.
    """
    if not shared_words:
        return SYSTEM
    nonce = _nonce(f"{seed}/shared")
    return f"{SYSTEM} {nonce} Keep all of these words in mind: {_drawn(nonce, shared_words)}"


def drawn_count(seed: int, user: int, what: str, most: int) -> int:
    """A number from 1 to `most`, evenly drawn and the same for the same arguments."""
    return random.Random(f"{what}/{seed}/{user}").randint(1, most)


def _nonce(place: str) -> str:
    return hashlib.blake2b(place.encode(), digest_size=6).hexdigest()


def _drawn(nonce: str, words: int) -> str:
    return " ".join(random.Random(nonce).choices(WORDS, k=words))
