"""Guards: what each API asks of the access rules before its handler sees a request, and hides in what it answers.

A guard takes out of a request what the client may not touch, hands the rest to the handler, and puts the refusals into the
answer: handlers know nothing of rights. Where no authorizer is set none of this runs. `table.GUARDS` names the guard of every
API that is served, or that it needs none; a broker without a row for one does not start.

Rights are asked before existence: what a client may not describe it cannot tell from what is not there.
"""
