"""Who asks, and whose a job is.

An *owner* is an account, whose every client sees the same jobs. While there are no accounts everybody's owner is
`LOCAL_OWNER`, and a job is its client's alone.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol, Self

from contract.messages import LOCAL_OWNER


class Identity(NamedTuple):
    """Who asks. client: where answers go; owner: whose files, voices and, where there are accounts, jobs they are.

    limited_as: whose open jobs are counted together: an owner, a client or a network address. address: from which they
    ask, empty where nobody says.
    """

    client: str
    owner: str
    limited_as: str
    address: str = ""

    @classmethod
    def known(cls, client: str, owner: str = LOCAL_OWNER) -> Self:
        """Of who has shown who they are: limited as the owner where there are accounts, else as the client."""
        who = cls(client, owner, "")
        return who._replace(limited_as=whose(who).name)

    @classmethod
    def newcomer(cls, client: str, address: str | None) -> Self:
        """Of who shows nothing and gets a client's name: limited with all who do so at their network address."""
        return cls(client, LOCAL_OWNER, address or "", address or "")


class Whose(NamedTuple):
    """Those who see each other's jobs: one client of an owner, or all of its clients where client is None."""

    owner: str
    client: str | None

    @property
    def name(self) -> str:
        """One name for all of them."""
        return self.client or self.owner


class Party(Protocol):
    """Whatever has a client and an owner: who asks, a request, a job."""

    @property
    def client(self) -> str: ...
    @property
    def owner(self) -> str: ...


def whose(party: Party) -> Whose:
    """Whose jobs these are: the owner's where there are accounts, else the client's."""
    return Whose(party.owner, party.client if party.owner == LOCAL_OWNER else None)


def may_read(job: Party, who: Party) -> bool:
    """Whether a job is listed for `who`, and may be read, resumed and cancelled."""
    return whose(job) == whose(who)


def may_signal(job: Party, who: Party) -> bool:
    """Whether a job may be told by `who` what it waits for: any client of its owner may."""
    return job.owner == who.owner
