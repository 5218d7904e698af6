"""The robbery that fails: a shop's bots trade on a real bus while an attacker on their network tries to rob it.

``python -m examples.robbery`` runs it. Every part is a process of its own:

================== =================================================================================================
:mod:`.order`       places the orders of ``orders.jsonl`` and watches them being shipped
:mod:`.inventory`   reserves stock for each order
:mod:`.shipping`    ships what is reserved
:mod:`.attacker`    sits on order's network connection, owns the bot ``scraper``, and tries everything in :mod:`.catalogue`
:mod:`.server`      nats-server
:mod:`.relay`       the relay, which is killed and started again in the middle of trade
================== =================================================================================================

The director (:mod:`.director`) starts them and believes none of them: where each attack was stopped it reads from the
quarantine, from the logs of relay and nats-server, and from the streams (:mod:`.evidence`). :mod:`.judging` then says whether
the bus held.
"""
