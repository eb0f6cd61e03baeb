"""A user's program as a type checker sees it: two mistakes, each marked as an error."""

import jax
import jax.numpy as jnp
import optax

import jaxticket as jt
from jaxticket import selection

weights = {"kernel": jnp.ones((4, 3)), "bias": jnp.zeros(3)}
ticket = jt.Ticket(weights, jt.masks.full(weights))
search = jt.imp(optax.adam(1e-3), density=0.5, select=selection.global_top)
state = search.init(jax.random.key(0), ticket)
found: jt.Ticket = search.ticket(search.advance(state))
pruned = jt.prune(found, "magnitude", 0.5)
table: str = str(jt.summary(pruned))
jt.prune(found, 0.5, "magnitude")  # error
jt.imp(optax.adam(1e-3), densty=0.5)  # error
