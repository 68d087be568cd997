//! What Prometheus is told, as text of its format 0.0.4
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>).

use super::Hub;
use crate::command::{CommandCost, Histogram};
use crate::engine::namespace::Namespace;
use std::collections::BTreeMap;
use std::fmt::{Display, Write};

/// The bounds of histograms are powers of two of nanoseconds: 1.024 us, four times that, up to 17 s.
const BOUNDS_LOG: std::ops::RangeInclusive<u32> = 10..=34;
const BOUND_STEP: usize = 2;

struct Text(String);

impl Text {
    fn put(&mut self, text: std::fmt::Arguments<'_>) {
        self.0.write_fmt(text).expect("writing to a string does not fail");
    }

    fn head(&mut self, name: &str, kind: &str, help: &str) {
        self.put(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.head(name, "gauge", help);
        self.put(format_args!("{name} {value}\n"));
    }

    fn counter(&mut self, name: &str, help: &str, value: impl Display) {
        self.head(name, "counter", help);
        self.put(format_args!("{name} {value}\n"));
    }

    /// The same measure of several things, each with its label.
    fn each<'a, V: Display>(
        &mut self,
        (name, kind, help): (&str, &str, &str),
        label: &str,
        values: impl Iterator<Item = (&'a str, V)>,
    ) {
        let mut values = values.peekable();
        if values.peek().is_none() {
            return;
        }
        self.head(name, kind, help);
        for (one, value) in values {
            self.put(format_args!("{name}{{{label}=\"{one}\"}} {value}\n"));
        }
    }

    /// The lines of one histogram. `label` is empty, or one label with its value.
    fn histogram(&mut self, name: &str, label: &str, histogram: &Histogram) {
        let comma = if label.is_empty() { "" } else { "," };
        for log in BOUNDS_LOG.step_by(BOUND_STEP) {
            let ns = 1u64 << log;
            let (bound, count) = (seconds(ns), histogram.count_below(ns));
            self.put(format_args!("{name}_bucket{{{label}{comma}le=\"{bound}\"}} {count}\n"));
        }
        let count = histogram.count();
        self.put(format_args!("{name}_bucket{{{label}{comma}le=\"+Inf\"}} {count}\n"));
        let braces = if label.is_empty() { String::new() } else { format!("{{{label}}}") };
        self.put(format_args!("{name}_sum{braces} {}\n", seconds(histogram.total_ns())));
        self.put(format_args!("{name}_count{braces} {count}\n"));
    }
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

/// A label's value: any bytes, shown as text.
fn escaped(bytes: &[u8]) -> String {
    let mut text = String::new();
    for sign in String::from_utf8_lossy(bytes).chars() {
        match sign {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            sign => text.push(sign),
        }
    }
    text
}

impl Hub {
    pub fn metrics(&mut self) -> String {
        self.engine.refresh_free_space();
        let mut text = Text(String::new());
        self.process(&mut text);
        self.clients(&mut text);
        self.requests(&mut text);
        self.disk(&mut text);
        self.memory(&mut text);
        self.namespaces(&mut text);
        self.replication(&mut text);
        self.durations(&mut text);
        text.0
    }

    fn process(&self, text: &mut Text) {
        let usage = (self.server.machine.usage)();
        let cpu_us = usage.user_us + usage.system_us;
        text.head("zdb_build_info", "gauge", "The version of the server.");
        text.put(format_args!("zdb_build_info{{version=\"{}\"}} 1\n", env!("CARGO_PKG_VERSION")));
        text.gauge(
            "process_start_time_seconds",
            "Start of the process, in seconds since the epoch.",
            self.server.boot_s,
        );
        text.counter(
            "process_cpu_seconds_total",
            "Processor time of the process.",
            cpu_us as f64 / 1e6,
        );
        text.gauge(
            "process_resident_memory_bytes",
            "Memory of the process that is in RAM.",
            usage.resident_bytes,
        );
    }

    fn clients(&self, text: &mut Text) {
        let stats = &self.server.stats;
        text.gauge("zdb_clients", "Connected clients.", stats.clients_now);
        text.gauge("zdb_clients_blocked", "Clients that wait for others.", stats.clients_blocked);
        text.gauge("zdb_clients_max", "Most clients at once.", self.server.settings.clients_max);
        for (name, help, value) in [
            ("zdb_connections_total", "Connections taken.", stats.clients_lifetime),
            (
                "zdb_connections_rejected_total",
                "Connections turned away: too many, or strangers in protected mode.",
                stats.rejected_connections,
            ),
            (
                "zdb_connections_timed_out_total",
                "Connections closed after too long a silence.",
                stats.timed_out_connections,
            ),
            (
                "zdb_connections_overrun_total",
                "Connections closed since they did not read.",
                stats.output_limit_disconnections,
            ),
            ("zdb_tls_handshakes_total", "TLS handshakes.", stats.tls_handshakes),
            (
                "zdb_tls_handshakes_failed_total",
                "TLS handshakes that failed.",
                stats.tls_handshakes_failed,
            ),
            (
                "zdb_tls_handshakes_kernel_total",
                "TLS handshakes after which the kernel took over.",
                stats.tls_handshakes_kernel,
            ),
            ("zdb_passwords_wrong_total", "Wrong passwords.", stats.passwords_wrong),
            (
                "zdb_passwords_not_looked_at_total",
                "Passwords refused after too many wrong ones.",
                stats.passwords_not_looked_at,
            ),
            ("zdb_network_received_bytes_total", "Bytes from clients.", stats.received_bytes),
            ("zdb_network_sent_bytes_total", "Bytes to clients.", stats.sent_bytes),
        ] {
            text.counter(name, help, value);
        }
    }

    fn requests(&self, text: &mut Text) {
        let stats = &self.server.stats;
        for (name, help, value) in [
            ("zdb_requests_total", "Requests of known commands.", stats.commands),
            ("zdb_requests_unknown_total", "Requests of unknown commands.", stats.commands_failed),
            (
                "zdb_requests_unauthorized_total",
                "Requests without the right to them.",
                stats.commands_unauthorized,
            ),
            ("zdb_errors_total", "Replies that were errors.", stats.errors),
            ("zdb_keyspace_hits_total", "Reads of a key that is there.", stats.hits),
            ("zdb_keyspace_misses_total", "Reads of a key that is not.", stats.misses),
        ] {
            text.counter(name, help, value);
        }
        let latencies = &self.server.latencies;
        let mut each = |name: &str, help: &str, count: &dyn Fn(&CommandCost) -> u64| {
            let values = latencies.iter().map(|(command, cost)| (command, count(cost)));
            text.each((name, "counter", help), "command", values);
        };
        each("zdb_command_calls_total", "Requests that ran.", &|cost| cost.calls);
        each("zdb_command_failed_total", "Of these, those an error answered.", &|cost| cost.failed);
        each("zdb_command_rejected_total", "Requests refused before they ran.", &|cost| {
            cost.rejected
        });
    }

    fn disk(&self, text: &mut Text) {
        let engine = &self.engine;
        let (log, stats) = (&engine.log.stats, &engine.stats);
        for (name, help, value) in [
            ("zdb_data_reads_total", "Reads of segments.", stats.reads),
            ("zdb_data_read_bytes_total", "Bytes read from segments.", stats.read_bytes),
            (
                "zdb_data_read_errors_total",
                "Records that could not be read or were damaged.",
                stats.read_errors,
            ),
            ("zdb_data_written_bytes_total", "Bytes written to segments.", log.written_bytes),
            (
                "zdb_data_write_errors_total",
                "Failed writes, flushes and segments.",
                log.write_errors,
            ),
            ("zdb_index_read_bytes_total", "Bytes read from sidecars.", stats.index_read_bytes),
            (
                "zdb_index_read_errors_total",
                "Pages of sidecars that could not be read or were damaged.",
                stats.index_read_errors,
            ),
            ("zdb_index_written_bytes_total", "Bytes written to sidecars.", log.sidecar_bytes),
            (
                "zdb_log_record_bytes_total",
                "Bytes of records appended, without padding.",
                log.record_bytes,
            ),
            ("zdb_log_zeroed_bytes_total", "Bytes zeroed ahead of the log.", log.zeroed_bytes),
            ("zdb_log_writes_total", "Writes to segments.", log.writes),
            ("zdb_log_flushes_total", "Flushes of segments.", log.flushes),
        ] {
            text.counter(name, help, value);
        }
        for (name, help, value) in [
            ("zdb_log_appended_position_bytes", "End of the log.", engine.log.appended()),
            (
                "zdb_log_durable_position_bytes",
                "End of the part of the log that is on stable storage.",
                engine.log.durable(),
            ),
            ("zdb_log_segments", "Segments of the log.", engine.log.segments.list().len() as u64),
            (
                "zdb_log_broken",
                "1 after a failed write or flush: no more writes are taken.",
                engine.log.broken().is_some().into(),
            ),
            (
                "zdb_disk_full",
                "1 if the last attempt to make a segment met a full disk.",
                log.disk_full.into(),
            ),
            (
                "zdb_log_ended_bytes",
                "Bytes of records of namespaces that were removed or flushed: dead ones.",
                engine.namespaces.ended_bytes,
            ),
        ] {
            text.gauge(name, help, value);
        }
        let cleaner = &engine.cleaner.stats;
        for (name, help, value) in [
            (
                "zdb_cleaner_cleaned_bytes_total",
                "Of data files that the cleaner replaced.",
                cleaner.cleaned_bytes,
            ),
            (
                "zdb_cleaner_written_bytes_total",
                "Of data files that the cleaner wrote in their place.",
                cleaner.written_bytes,
            ),
            (
                "zdb_cleaner_records_dropped_total",
                "Records that no namespace wanted any more.",
                cleaner.records_dropped,
            ),
            ("zdb_cleaner_failures_total", "Passes that were given up.", cleaner.failures),
        ] {
            text.counter(name, help, value);
        }
        self.scrub(text);
        self.offload(text);
        let (data, index) = engine.free_bytes;
        text.each(
            ("zdb_disk_free_bytes", "gauge", "Free bytes of the file systems."),
            "directory",
            [("data", data), ("index", index)].into_iter(),
        );
    }

    fn scrub(&self, text: &mut Text) {
        let scrub = &self.engine.scrub;
        for (name, help, value) in [
            ("zdb_scrub_read_bytes_total", "Bytes read by the scrub.", scrub.stats.read_bytes),
            ("zdb_scrub_records_total", "Records that it found whole.", scrub.stats.records),
            ("zdb_scrub_passes_total", "Passes that came to their end.", scrub.stats.passes),
        ] {
            text.counter(name, help, value);
        }
        for (name, help, value) in [
            ("zdb_scrub_running", "1 while a pass runs.", scrub.is_running().into()),
            ("zdb_scrub_position_bytes", "Position of the running pass.", scrub.position()),
            ("zdb_scrub_segments_done", "Segments it is done with.", scrub.segments_done()),
            ("zdb_scrub_damaged", "Damaged places that are known.", scrub.damaged()),
            (
                "zdb_scrub_ended_timestamp_seconds",
                "End of the last whole pass, in seconds since the epoch; 0: none yet.",
                scrub.ended_s(),
            ),
        ] {
            text.gauge(name, help, value);
        }
    }

    fn offload(&self, text: &mut Text) {
        let away = &self.engine.away;
        text.gauge("zdb_segments_away", "Segments whose files were moved away.", away.count());
        for (name, help, value) in [
            ("zdb_segments_let_go_total", "Files that were moved away.", away.stats.let_go),
            (
                "zdb_segments_brought_back_total",
                "Files that came back for who wanted them.",
                away.stats.brought_back,
            ),
            (
                "zdb_segments_stayed_away_total",
                "Times that a file did not come back for who wanted it.",
                away.stats.failures,
            ),
        ] {
            text.counter(name, help, value);
        }
    }

    fn memory(&self, text: &mut Text) {
        let cache = &self.engine.cache;
        let (hits, misses) = cache.lookups();
        text.gauge("zdb_index_memory_bytes", "Memory of the index.", self.engine.index_bytes());
        text.gauge("zdb_cache_bytes", "Memory of the cached records.", cache.bytes());
        text.gauge("zdb_cache_records", "Cached records.", cache.len());
        text.counter("zdb_cache_hits_total", "Records found in the cache.", hits);
        text.counter(
            "zdb_cache_misses_total",
            "Records found neither in the cache nor in the write buffer.",
            misses,
        );
    }

    fn namespaces(&self, text: &mut Text) {
        let engine = &self.engine;
        let names: Vec<String> =
            engine.namespaces.iter().map(|namespace| escaped(&namespace.name)).collect();
        let mut each = |name: &str, kind: &str, help: &str, value: &dyn Fn(&Namespace) -> u64| {
            let values = names.iter().map(String::as_str).zip(engine.namespaces.iter().map(value));
            text.each((name, kind, help), "namespace", values);
        };
        each("zdb_namespace_keys", "gauge", "Live keys.", &|one| one.live_keys);
        each("zdb_namespace_live_bytes", "gauge", "Bytes of their values.", &|one| one.live_bytes);
        each(
            "zdb_namespace_record_live_bytes",
            "gauge",
            "Bytes of the records of live keys, with heads.",
            &|one| one.space().live,
        );
        each(
            "zdb_namespace_record_history_bytes",
            "gauge",
            "Bytes of other records that are kept.",
            &|one| one.space().history,
        );
        each(
            "zdb_namespace_record_dead_bytes",
            "gauge",
            "Bytes of records that the cleaner may drop.",
            &|one| one.space().dead,
        );
        each("zdb_namespace_limit_bytes", "gauge", "Limit of these bytes; 0: none.", &|one| {
            engine.max_bytes(one)
        });
        each("zdb_namespace_read_errors_total", "counter", "Bad reads.", &|one| one.read_errors);
        each("zdb_namespace_write_errors_total", "counter", "Refused writes.", &|one| {
            one.write_errors
        });
    }

    fn replication(&self, text: &mut Text) {
        let (engine, replication) = (&self.engine, &self.server.replication);
        let (end, now_ms) = (engine.log.end(), engine.now.monotonic_ms);
        let is_replica = replication.master.is_some();
        text.each(
            ("zdb_replication_role", "gauge", "1 at the part that the server has."),
            "role",
            [("master", u64::from(!is_replica)), ("replica", u64::from(is_replica))].into_iter(),
        );
        if is_replica && let Some(link) = &replication.link {
            let (lag_bytes, lag_ms) = link.lag(end, now_ms);
            text.gauge(
                "zdb_replication_link_up",
                "1 while the log of the master comes in; only of a replica.",
                u8::from(link.is_up()),
            );
            text.gauge(
                "zdb_replication_lag_bytes",
                "Bytes of the log that the master had by its last word, and that are not here.",
                lag_bytes,
            );
            text.gauge(
                "zdb_replication_lag_seconds",
                "How long the log has been shorter than the master's by its last word, or without a link.",
                lag_ms as f64 / 1e3,
            );
        }
        for (name, help, value) in [
            (
                "zdb_replication_replicas",
                "Replicas that get the log.",
                replication.online().count() as u64,
            ),
            (
                "zdb_replication_backups",
                "Backups that get the log.",
                replication.copies().filter(|one| one.is_backup).count() as u64,
            ),
            (
                "zdb_replication_term",
                "Term of the end of the log; 0: none yet.",
                engine.terms.number(),
            ),
        ] {
            text.gauge(name, help, value);
        }
        // Two behind one address would be the same series twice: the worse one of them counts.
        let mut replicas: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        for one in replication.online() {
            let worst = replicas.entry(escaped(one.address().as_bytes())).or_default();
            worst.0 = worst.0.max(end.saturating_sub(one.acked));
            worst.1 = worst.1.max(now_ms.saturating_sub(one.heard_ms));
        }
        text.each(
            (
                "zdb_replication_replica_lag_bytes",
                "gauge",
                "Bytes of the log that a replica has not acknowledged.",
            ),
            "address",
            replicas.iter().map(|(address, (bytes, _))| (address.as_str(), *bytes)),
        );
        text.each(
            (
                "zdb_replication_replica_heard_seconds",
                "gauge",
                "Since a replica last said how far it is; each second it does.",
            ),
            "address",
            replicas.iter().map(|(address, (_, ms))| (address.as_str(), *ms as f64 / 1e3)),
        );
        for (name, help, value) in [
            (
                "zdb_replication_syncs_full_total",
                "Replicas that had to begin anew.",
                replication.syncs_full,
            ),
            (
                "zdb_replication_syncs_partial_total",
                "Replicas that went on where they were.",
                replication.syncs_partial,
            ),
            (
                "zdb_replication_sent_bytes_total",
                "Bytes of the log that went to replicas and backups.",
                replication.sent_bytes,
            ),
            (
                "zdb_replication_writes_refused_total",
                "Writes that were answered NOREPLICAS.",
                replication.writes_refused,
            ),
        ] {
            text.counter(name, help, value);
        }
    }

    fn durations(&self, text: &mut Text) {
        let latencies = &self.server.latencies;
        let name = "zdb_command_duration_seconds";
        let mut begun = false;
        for (command, cost) in latencies.iter() {
            let Some(histogram) = &cost.histogram else { continue };
            if !std::mem::replace(&mut begun, true) {
                text.head(name, "histogram", "How long requests took.");
            }
            text.histogram(name, &format!("command=\"{command}\""), histogram);
        }
        let name = "zdb_commit_duration_seconds";
        text.head(name, "histogram", "From the append of a record to the moment its reply may go.");
        text.histogram(name, "", &latencies.commit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped() {
        assert_eq!(escaped(b"a\"b\\c\nd"), "a\\\"b\\\\c\\nd");
        assert_eq!(escaped(b"\xff\t"), "\u{fffd}\t");
    }

    #[test]
    fn histograms_are_cumulative() {
        let mut histogram = Histogram::default();
        [500, 2_000, 5_000, 20_000_000_000].iter().for_each(|ns| histogram.record(*ns, 1));
        let mut text = Text(String::new());
        text.histogram("name", "", &histogram);
        let lines: Vec<&str> = text.0.lines().collect();
        assert_eq!(lines[0], "name_bucket{le=\"0.000001024\"} 1");
        assert_eq!(lines[1], "name_bucket{le=\"0.000004096\"} 2");
        assert_eq!(lines[2], "name_bucket{le=\"0.000016384\"} 3");
        assert_eq!(
            lines[13..],
            ["name_bucket{le=\"+Inf\"} 4", "name_sum 20.0000075", "name_count 4"]
        );
    }
}
