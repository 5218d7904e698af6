"""The robbery that fails.

A shop's bots trade on a real bus, and an attacker on their network tries to rob it.
``python -m examples.robbery`` runs it. Each part is a process of its own:

* :mod:`.order` places the orders of ``orders.jsonl``, and sees them shipped.
* :mod:`.inventory` reserves stock for each order.
* :mod:`.shipping` ships the reserved orders.
* :mod:`.attacker` is on order's network connection, owns the bot ``scraper``, and tries everything
  in :mod:`.catalogue`.
* :mod:`.server` is nats-server.
* :mod:`.relay` is the relay, which is killed and started again in the middle of trade.

In the end the operator turns TLS on, by the commands of ``sealbus``. The attacker tries the line
once more (:mod:`.under_tls`).

The director (:mod:`.director`) starts them and believes none of them. It learns where each attack
was stopped from the quarantine, from the logs of relay and nats-server, and from the streams
(:mod:`.evidence`). :mod:`.judging` then says whether the bus held.
"""
