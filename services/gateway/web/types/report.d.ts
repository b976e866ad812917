/** The JSON of `GET /api/pomona/v1/cluster` and of the events. The Python dataclasses own it. */

export interface Link {
  node: string;
  address: string;
  kind: string;
  rtt_us: number;
  rtt_spread_us: number;
  bytes_per_s: number;
  dead: string[];
}

export interface ExpectedLink {
  node: string;
  kind: string;
  rtt_us: number;
  bytes_per_s: number;
  state: "good" | "slow" | "fallback" | "down" | "unmeasured";
  reason: string;
}

export interface Node {
  name: string;
  hardware: {
    chip: string;
    cores: number;
    memory_bytes: number;
    usable_memory_bytes: number;
    os_name: string;
    os_version: string;
  } | null;
  machine: { product: string; watts: number; celsius: number; disk_free_bytes: number };
  links: Link[];
  expected: ExpectedLink[];
  troubles: string[];
}

export interface Stage {
  worker: string;
  node: string;
  start: number;
  stop: number;
  state: string;
  loaded_bytes: number;
  total_bytes: number;
  fetched_bytes: number;
  fetch_bytes: number;
  error: string;
  predicted_us: number;
  decode_us: number;
}

export interface Pipeline {
  model: string;
  source: string;
  epoch: number;
  state: string;
  reason: string;
  proven: boolean;
  stages: Stage[];
  prediction: {
    tokens_per_second: number;
    ceiling_tokens_per_second: number;
    users: number;
    users_tokens_per_second: number;
    prompt_tokens: number;
    first_token_s: number;
    cache_tokens: number;
    notes: string[];
  } | null;
  measured_tokens_per_second: number;
  proposal: string;
  speculation: { off: string; drafted: number; accepted: number; tokens_per_round: number } | null;
}

export interface Worker {
  name: string;
  node: string;
  device: string;
  usable_bytes: number;
  weight_bytes: number;
  cache_bytes: number;
  prefix_bytes: number;
  footprint_bytes: number;
  steps: number;
  step_tokens: number;
  sequences: number;
  prefixes: number;
  lanes: number;
  waiting: number;
  tokens_per_second: number;
}

export interface Report {
  cluster: string;
  state: "serving" | "degraded" | "absent";
  troubles: string[];
  urls: string[];
  nodes: Node[];
  services: {
    name: string;
    service: string;
    node: string;
    pid: number;
    state: string;
    version: string;
    endpoints: Record<string, string>;
  }[];
  pipelines: Pipeline[];
  /** Models that a question loads. */
  unloaded: string[];
  alerts: { key: string; severity: "warning" | "critical"; summary: string; since: number }[];
  users: number;
  tokens_per_second: number;
  requests: {
    request: string;
    model: string;
    age_s: number;
    prompt_tokens: number;
    prefilled: number;
    reply_tokens: number;
  }[];
  workers: Worker[];
  drains: {
    node: string;
    state: "draining" | "drained" | "refused" | "ended";
    reason: string;
  }[];
  placement: { choices: MachineChoice[]; at: number; refused: string };
}

export interface MachineChoice {
  machine: string;
  kind: "exclude" | "pin" | "cap";
  model: string;
  start: number;
  stop: number;
  memory_bytes: number;
}

export interface Work {
  steps_per_s: number;
  busy: number;
  step_tokens: number;
  lanes: number;
}

export interface ModelEntry {
  name: string;
  source: string;
  state: "ready" | "loading" | "failed" | "unloaded" | "disk";
  needs_bytes: number;
  held_bytes: number;
  total_bytes: number;
  fits: "" | "now" | "after unloading" | "no";
  missing_bytes: number;
  reason: string;
  pull: "" | "running" | "failed";
  pull_reason: string;
}

export interface Change {
  at: number;
  kind: string;
  severity: "info" | "good" | "warning" | "critical";
  text: string;
}

export interface Hello {
  version: string;
  node: string;
  cluster: string;
  role: string;
  keys_required: boolean;
  now: number;
}

export interface Catalog {
  machines: {
    name: string;
    chip: string;
    machine: string;
    memory_gb: number[];
    thunderbolt: number;
  }[];
  links: { name: string; kind: string; rtt_us: number; bytes_per_s: number }[];
  models: string[];
}

export interface Plan {
  model: string;
  cluster: string;
  link: string;
  machines: number;
  fits: boolean;
  price_dollars: number;
  weights_bytes: number;
  ceiling_tokens_per_second: number;
  reason?: string;
  missing_bytes?: number;
  would_fit?: string[];
  notes: string[];
  stages?: {
    machine: string;
    start: number;
    stop: number;
    memory_bytes: number;
    usable_bytes: number;
    milliseconds_per_token: number;
  }[];
  tokens_per_second?: number;
  users?: number;
  users_tokens_per_second?: number;
  first_token_s?: number;
  prompt_tokens?: number;
  cache_tokens?: number;
  watts?: number;
  joules_per_token?: number;
  dollars_per_million_tokens?: number;
  dollars_per_million_tokens_one_user?: number;
  price_of_used_dollars?: number;
}

export interface Waiting {
  name: string;
  key: string;
  digits: string;
  invited: boolean;
  holder: string;
}

export interface Membership {
  cluster: string;
  version: number;
  is_head: boolean;
  heads: string[];
  members: {
    id: string;
    name: string;
    role: string;
    since: number;
    invited_by: string;
    online: boolean;
    here: boolean;
  }[];
  waiting: Waiting[];
}

export interface LogLine {
  at: number;
  process: string;
  level: string;
  text: string;
}
