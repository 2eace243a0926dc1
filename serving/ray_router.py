"""The router of a fleet on Ray Serve: requests for an adapter go to a replica that holds it."""

import random

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

from adaptdock.serving.affinity import SPILL, order


class AffinityRouter(RequestRouter):
    """Routes by the adapter in the header ``serve_multiplexed_model_id``, and other requests to one of two replicas.

    Ray's own routing by that header pins a hot adapter to one replica, and learns only after a load who holds what.
    """

    def initialize_state(self, spill: int = SPILL) -> None:
        """Set the option of :func:`order`; Ray calls this with ``request_router_kwargs``."""
        self._spill = spill

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Return the replicas to try in turn, as lists of equally good ones."""
        if pending_request is None or not pending_request.metadata.multiplexed_model_id:
            return [random.sample(candidate_replicas, min(2, len(candidate_replicas))), candidate_replicas]
        pending_request.routing_context.should_backoff = True  # else Ray tries full replicas again without a pause
        replicas = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
        in_flight = {
            name: self.replica_queue_len_cache.get(replica.replica_id) or 0 for name, replica in replicas.items()
        }
        names = order(pending_request.metadata.multiplexed_model_id, in_flight, self._spill)
        return [[replicas[name]] for name in names]
