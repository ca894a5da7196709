"""Every attribute and metric name that leaves this library, in one place.

``gen_ai.*`` follows open-telemetry/semantic-conventions-genai (all "Development" there, and newer than the
constants in opentelemetry-semantic-conventions); ``gen_ai.usage.cost.*`` follows the open proposal for cost on
inference spans; what the conventions don't have is ``tokenmeter.*``.
"""

from __future__ import annotations

OPERATION_NAME = "gen_ai.operation.name"
PROVIDER_NAME = "gen_ai.provider.name"
REQUEST_MODEL = "gen_ai.request.model"
REQUEST_MAX_TOKENS = "gen_ai.request.max_tokens"
REQUEST_STREAM = "gen_ai.request.stream"
REQUEST_CHOICE_COUNT = "gen_ai.request.choice.count"
RESPONSE_MODEL = "gen_ai.response.model"
RESPONSE_ID = "gen_ai.response.id"
RESPONSE_FINISH_REASONS = "gen_ai.response.finish_reasons"
RESPONSE_TIME_TO_FIRST_CHUNK = "gen_ai.response.time_to_first_chunk"
USAGE_INPUT_TOKENS = "gen_ai.usage.input_tokens"
USAGE_OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
USAGE_CACHE_READ = "gen_ai.usage.cache_read.input_tokens"
USAGE_CACHE_WRITE = "gen_ai.usage.cache_write.input_tokens"
USAGE_REASONING = "gen_ai.usage.reasoning.output_tokens"
COST_AMOUNT = "gen_ai.usage.cost.amount"
COST_CURRENCY = "gen_ai.usage.cost.currency"
COST_SOURCE = "gen_ai.usage.cost.source"
AGENT_NAME = "gen_ai.agent.name"
TOKEN_TYPE = "gen_ai.token.type"  # noqa: S105 - the name of an attribute

USER_ID = "user.id"
USER_HASH = "user.hash"
ERROR_TYPE = "error.type"
SERVER_ADDRESS = "server.address"
SERVER_PORT = "server.port"
HTTP_STATUS_CODE = "http.response.status_code"

TEAM = "tokenmeter.team"
RUN_ID = "tokenmeter.run.id"
CALL_ID = "tokenmeter.call.id"
TAG_PREFIX = "tokenmeter.tag."
ESTIMATED = "tokenmeter.usage.estimated"
DEPTH = "tokenmeter.loop.depth"
PATH = "tokenmeter.loop.path"
LOOP_GUARDS = "tokenmeter.loop.guards"
LOOP_COUNT = "tokenmeter.loop.count"
LOOP_LIMIT = "tokenmeter.loop.limit"
BUDGET_NAMES = "tokenmeter.budget.names"
BUDGET_REMAINING = "tokenmeter.budget.remaining"
BUDGET_HELD_USD = "tokenmeter.budget.held_usd"
BUDGET_WARNED = "tokenmeter.budget.warned"
BUDGET_OUTPUT_CAP = "tokenmeter.budget.output_cap"
BUDGET_DOWNGRADED_FROM = "tokenmeter.budget.downgraded_from"
REFUSAL_REASON = "tokenmeter.refusal.reason"
REFUSAL_BUDGET = "tokenmeter.refusal.budget"
REFUSAL_SCOPE = "tokenmeter.refusal.scope"

THRESHOLD_EVENT = "tokenmeter.budget.threshold"
EVENT_BUDGET = "tokenmeter.budget.name"
EVENT_SCOPE = "tokenmeter.budget.scope"
EVENT_PERCENT = "tokenmeter.budget.percent"
EVENT_SPENT = "tokenmeter.budget.spent"
EVENT_LIMIT = "tokenmeter.budget.limit"

TOKEN_USAGE_METRIC = "gen_ai.client.token.usage"  # noqa: S105 - the name of a metric
TOKEN_USAGE_BOUNDARIES = [4**power for power in range(14)]  # 1, 4, 16 … 67108864
DURATION_METRIC = "gen_ai.client.operation.duration"
DURATION_BOUNDARIES = [0.01 * 2**power for power in range(14)]  # 0.01 … 81.92 s
TIME_TO_FIRST_CHUNK_METRIC = "gen_ai.client.operation.time_to_first_chunk"
COST_METRIC = "tokenmeter.cost"
LOOPS_METRIC = "tokenmeter.loops"
REFUSALS_METRIC = "tokenmeter.refusals"
DROPPED_METRIC = "tokenmeter.telemetry.dropped"
