"""Responses Gateway: an asynchronous reverse proxy in front of the OpenAI Responses API. The map.

Data flow: the log is in the middle, and no arrow points back.

    client --POST--> edge ----> relay.tracker ----> relay.upstream ===== SSE =====+
                                                                                  v
              relay.pump:  bytes -> frames -> events -> domain.lifecycle -> facts -> telemetry
                                                |  append(batch)                      metrics, spans, lines
                                                v
    client <--SSE-- edge.stream <-- store.follow(after) <-- read(after, wait) -- [ LOG ]

A pump copies what upstream streams into an append-only log, a poller does the same with snapshots; every client, the
first included, follows the log. Between them stand only the log and one number: upstream's `sequence_number` is the log
position, the cursor of a reader and the key of an event. So a repeated append is harmless, a reader's state is one
integer, and taking up after a crash is reading the tail and asking upstream for what comes after it. Where processes
share a store, any of them does so for one that has died: between them stand the store and nothing else.

Floors, from the ground up; a module imports from its own floor or below, never above (a test holds it):

    config     every setting in one typed class; anyone may read it
    child      processes of ours that work for one another, and the line between them
    domain     what the Responses API is, as values and pure functions: frames, events, the life-cycle fold, facts
    telemetry  facts in; metrics, spans and log lines out
    store      the log: one port, its promises, and `follow`, the one way to read
    relay      the only long-lived tasks: tracker, pump, poller, and the one module that speaks to upstream
    edge       HTTP in: pass-through, the routes of responses, streams, the operators' API
    app, cli   composition root; commands, and what they do (`commands`, `demo`)
    simulator  a Responses API to try the gateway on without a key; imports `domain` only, and only commands import it

Where to begin reading: `domain.lifecycle` (what can happen), `store.port` (what is promised), `relay.tracker` (who
works), `relay.leases` (how responses change hands).

Words, one meaning each:

    response            upstream's job and the gateway's record of it; never "job", "run" or "task"
    event               one SSE event, with upstream's own bytes
    position            an event's number in its log: upstream's `sequence_number` while that ascends
    after               the position that a reader has; it gets what comes after it
    tail                the last position of a log
    terminal            completed, failed, incomplete or cancelled: upstream's final word, written once
    ended               tracking is over: by a terminal status, or lost, abandoned, deleted, cut off
    mode                `background` and `stream` of the create as one value; `websocket`: it came over one
    route               one upstream: base URL and, where the gateway holds one, its credential
    attempt             a create as its client sends it; one that is sent again joins the first
    owner               a keyed hash of route, credential, organisation and project; only owners are shown a response
    sealed              an owner's credential, encrypted in the record of its live background response: in its seal
    worker, supervisor  one of several processes on one port; the one that starts, stops and replaces them
    pump, poller        who copies events, who copies snapshots
    live, ledger        a response in this process's hands; the one hand that writes it down
    lease, epoch        the right to write a response, until its process is not heard of; the number of who had it
    claim, release      take the lease of what nobody living holds; leave it to others
    orphan, adopt       what no living process holds; to claim it and go on with it
    forgotten, anew     what the store had acknowledged and has not any more; its holder writes it again
    guest               a live response that another process holds, while clients ask this one about it
    attach, resume      a reader begins; a reader begins in the middle. Re-attach: the pump does so upstream
    heartbeat           a comment in a silent stream
    continuation token  `resp_...~N`: an id and a position
    ticket              stands for a credential in a URL: for one response, for reading, for a while
    fact                something that happened, in the past tense; all telemetry is made of them
    exporter            the process that builds spans and sends them to the collector
    due, owed           an end that telemetry has still to tell; how many; the outbox sends and settles them
    generation          the span that is a response's whole life; promoted: exported though it was not sampled
    stuck, recovered    it should have moved and did not, for a reason; it moved again
    linger              how long a foreground stream outlives its last reader
    drain               finishing before a stop
    purge               deleting what is past its retention
"""
