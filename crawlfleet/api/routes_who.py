"""Who the holder of a token is to the API."""

from __future__ import annotations

import datetime as dt
from typing import Annotated

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from crawlfleet.api.guard import caller_of
from crawlfleet.api.parameters import PROBLEMS
from crawlfleet.model.api_token import Role

router = APIRouter(tags=["management"], responses=PROBLEMS)


class WhoAmI(BaseModel):
    """The caller."""

    actor: Annotated[str, Field(description="the name in the audit", examples=["token grafana"])]
    role: Role
    accounts: Annotated[
        list[str] | None, Field(description="source/username of those that it may ask about; null: of all")
    ]
    expires_at: Annotated[dt.datetime | None, Field(description="when the token ends; null: never")]


@router.get("/whoami")
async def whoami(request: Request) -> WhoAmI:
    """Who you are to this API: by which token, with which role, for which accounts and how long."""
    caller = caller_of(request)
    accounts = None if caller.accounts is None else list(caller.accounts)
    return WhoAmI(actor=caller.actor, role=caller.role, accounts=accounts, expires_at=caller.expires_at)
