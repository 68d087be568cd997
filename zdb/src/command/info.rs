//! INFO: 0-db's sections as 0-db writes them, then Redis's.

use super::channels::Kind;
use super::measure::{CommandCost, Histogram};
use super::{Context, Outcome, replication, settings};
use crate::engine::namespace::{Namespace, Space};
use crate::limits::{OUTPUT_BYTES_MAX, PUSH_OUTPUT_BYTES_MAX};
use crate::output::Output;
use crate::resp::Request;
use std::fmt::{Display, Write};

/// The Redis whose conduct is followed: clients decide by it what they may ask.
const REDIS_VERSION: &str = "7.4.0";
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// One section after the other, of those that were asked for.
struct Text<'a> {
    out: String,
    asked: Vec<&'a [u8]>,
    /// What stands between a name and its value, and ends a line.
    form: (&'static str, &'static str),
}

impl Text<'_> {
    /// Begins a section, if it is wanted. `usual`: it comes unasked.
    fn section(&mut self, title: &str, usual: bool) -> bool {
        let is = |word: &[u8], name: &str| word.eq_ignore_ascii_case(name.as_bytes());
        let wanted = self.asked.is_empty() && usual
            || self.asked.iter().any(|word| {
                is(word, title)
                    || is(word, "all")
                    || is(word, "everything")
                    || (usual && is(word, "default"))
            });
        if wanted {
            let end = self.form.1;
            let gap = if self.out.is_empty() { "" } else { end };
            self.put(format_args!("{gap}# {title}{end}"));
        }
        wanted
    }

    fn put(&mut self, text: std::fmt::Arguments<'_>) {
        self.out.write_fmt(text).expect("writing to a string does not fail");
    }

    fn field(&mut self, name: &str, value: impl Display) {
        let (between, end) = self.form;
        self.put(format_args!("{name}{between}{value}{end}"));
    }

    /// A number of bytes, and the same for people.
    fn bytes_and_mb(&mut self, name: &str, bytes: u64) {
        self.field(&format!("{name}_bytes"), bytes);
        self.field(&format!("{name}_mb"), format_args!("{:.2}", bytes as f64 / (1 << 20) as f64));
    }

    fn bytes_and_human(&mut self, name: &str, bytes: u64) {
        self.field(name, bytes);
        self.field(&format!("{name}_human"), human(bytes));
    }
}

pub fn info(context: &mut Context<'_>, request: Request<'_>, out: &mut Output) -> Outcome {
    let asked: Vec<&[u8]> = request.iter().skip(1).filter(|word| !word.is_empty()).collect();
    let mut text = Text { out: String::new(), asked, form: (": ", "\n") };
    zdb_sections(context, &mut text);
    text.form = (":", "\r\n");
    redis_sections(context, &mut text);
    context.writer(out).verbatim(&text.out);
    Outcome::Done
}

fn zdb_sections(context: &Context<'_>, text: &mut Text<'_>) {
    let server = &context.server;
    let engine = &context.engine;
    let stats = &server.stats;
    let log = &engine.log.stats;
    if text.section("server", true) {
        text.field("server_name", "zdb");
        text.field("server_revision", VERSION);
        text.field("engine_revision", VERSION);
        text.field("instance_id", server.instance_id);
        text.field("boot_time", server.boot_s);
        text.field("uptime", engine.now.unix_s().saturating_sub(server.boot_s));
    }
    if text.section("clients", true) {
        text.field("clients_lifetime", stats.clients_lifetime);
        text.field("connected_clients", stats.clients_now);
        text.field("maxclients", server.settings.clients_max);
        text.field("timeout_s", server.settings.timeout_s);
        text.field("output_bytes_max", OUTPUT_BYTES_MAX);
        text.field("push_output_bytes_max", PUSH_OUTPUT_BYTES_MAX);
        text.field("rejected_connections", stats.rejected_connections);
        text.field("timed_out_connections", stats.timed_out_connections);
        text.field("moved_connections", stats.connections_moved);
        text.field("output_limit_disconnections", stats.output_limit_disconnections);
        text.field("tls_handshakes", stats.tls_handshakes);
        text.field("tls_handshakes_failed", stats.tls_handshakes_failed);
        text.field("tls_handshakes_kernel", stats.tls_handshakes_kernel);
        text.field("tls_kernel", u8::from(server.tls_kernel));
        text.field("passwords_wrong", stats.passwords_wrong);
        text.field("passwords_not_looked_at", stats.passwords_not_looked_at);
    }
    if text.section("internals", true) {
        text.field("sequential_key_size", 8);
        text.field("data_version", crate::engine::log::format::VERSION);
        text.field("index_version", 1);
    }
    if text.section("stats", true) {
        text.field("commands_executed", stats.commands);
        text.field("commands_failed", stats.commands_failed);
        text.field("commands_unauthorized", stats.commands_unauthorized);
        text.field("index_disk_read_failed", engine.stats.index_read_errors);
        text.field("index_disk_write_failed", 0);
        text.field("data_disk_read_failed", engine.stats.read_errors);
        text.field("data_disk_write_failed", log.write_errors);
        text.bytes_and_mb("index_disk_read", engine.stats.index_read_bytes);
        text.bytes_and_mb("index_disk_write", log.sidecar_bytes);
        text.bytes_and_mb("data_disk_read", engine.stats.read_bytes);
        text.bytes_and_mb("data_disk_write", log.written_bytes);
        text.bytes_and_mb("network_rx", stats.received_bytes);
        text.bytes_and_mb("network_tx", stats.sent_bytes);
    }
    if text.section("engine", true) {
        text.field("sync_policy", settings::policy_name(engine.log.policy));
        text.field("log_record_bytes", log.record_bytes);
        text.field("log_zeroed_bytes", log.zeroed_bytes);
        text.field("log_writes", log.writes);
        text.field("log_flushes", log.flushes);
        text.field("log_segments", engine.log.segments.list().len());
        text.field("log_position", engine.log.appended());
        text.field("log_broken", engine.log.broken().unwrap_or("no"));
        text.field("index_memory_bytes", engine.index_bytes());
        let cleaner = &engine.cleaner.stats;
        text.field("packed_memory_bytes", engine.log.segments.packed_memory_bytes());
        text.field("cleaner_state", engine.cleaner.state());
        text.field("cleaner_segments_cleaned", cleaner.segments_cleaned);
        text.field("cleaner_segments_written", cleaner.segments_written);
        text.field("cleaner_bytes_cleaned", cleaner.cleaned_bytes);
        text.field("cleaner_bytes_written", cleaner.written_bytes);
        text.field("cleaner_records_kept", cleaner.records_kept);
        text.field("cleaner_records_dropped", cleaner.records_dropped);
        text.field("cleaner_records_looked_up", cleaner.questions);
        text.field("cleaner_failures", cleaner.failures);
        text.field("cache_bytes", engine.cache.bytes());
        text.field("cache_records", engine.cache.len());
        let commit = &server.latencies.commit;
        text.field("commit_waits", commit.count());
        text.field("commit_p50_us", format_args!("{:.3}", us(commit.quantile_ns(0.5))));
        text.field("commit_p99_us", format_args!("{:.3}", us(commit.quantile_ns(0.99))));
        text.field("namespaces", engine.namespaces.len());
        text.field("keys", engine.namespaces.iter().map(|one| one.live_keys).sum::<u64>());
    }
    if text.section("space", true) {
        let Space { live, history, dead } = engine.namespaces.space();
        text.field("data_live_bytes", live);
        text.field("data_history_bytes", history);
        text.field("data_dead_bytes", dead);
        text.field("data_ended_bytes", engine.namespaces.ended_bytes);
        text.field("disk_full", u8::from(log.disk_full));
        for (slot, namespace) in engine.namespaces.slots() {
            text.field(&format!("ns{slot}"), space(namespace));
        }
    }
    if text.section("offload", true) {
        let away = &engine.away;
        text.field("segments_away", away.count());
        text.field("segments_let_go", away.stats.let_go);
        text.field("segments_brought_back", away.stats.brought_back);
        text.field("segments_stayed_away", away.stats.failures);
    }
    if text.section("scrub", true) {
        let scrub = &engine.scrub;
        text.field("scrub_running", u8::from(scrub.is_running()));
        text.field("scrub_position", scrub.position());
        text.field("scrub_segments_done", scrub.segments_done());
        text.field("scrub_read_bytes", scrub.stats.read_bytes);
        text.field("scrub_records", scrub.stats.records);
        text.field("scrub_damaged", scrub.damaged());
        text.field("scrub_passes", scrub.stats.passes);
        text.field("scrub_began", scrub.began_s());
        text.field("scrub_ended", scrub.ended_s());
        text.field("scrub_due", scrub.due_s(engine.now.unix_s()).unwrap_or(0));
    }
}

fn redis_sections(context: &Context<'_>, text: &mut Text<'_>) {
    let server = &context.server;
    let engine = &context.engine;
    let stats = &server.stats;
    let now_s = engine.now.unix_s();
    let usage = (server.machine.usage)();
    if text.section("Server", true) {
        text.field("redis_version", REDIS_VERSION);
        text.field("run_id", &server.replication.run_id);
        text.field("zdb_version", VERSION);
        text.field("redis_mode", "standalone");
        text.field("arch_bits", usize::BITS);
        text.field("multiplexing_api", "io_uring");
        text.field("io_threads", server.fixed_setting("io-threads"));
        text.field("process_id", usage.id);
        text.field("tcp_port", server.fixed_setting("port"));
        text.field("server_time_usec", engine.now.unix_us);
        text.field("uptime_in_seconds", now_s.saturating_sub(server.boot_s));
        text.field("uptime_in_days", now_s.saturating_sub(server.boot_s) / 86_400);
    }
    if text.section("Clients", true) {
        text.field("connected_clients", stats.clients_now);
        text.field("maxclients", server.settings.clients_max);
        text.field("blocked_clients", stats.clients_blocked);
    }
    if text.section("Memory", true) {
        text.bytes_and_human("used_memory", usage.allocated_bytes);
        text.bytes_and_human("used_memory_rss", usage.resident_bytes);
        text.bytes_and_human("total_system_memory", usage.system_memory_bytes);
        text.bytes_and_human("maxmemory", 0);
        text.field("maxmemory_policy", "noeviction");
        let ratio = usage.resident_bytes as f64 / usage.allocated_bytes.max(1) as f64;
        text.field("mem_fragmentation_ratio", format_args!("{ratio:.2}"));
        text.field("mem_allocator", "libc");
    }
    if text.section("Persistence", true) {
        text.field("loading", 0);
        text.field("async_loading", 0);
        text.field("rdb_bgsave_in_progress", 0);
        text.field("aof_enabled", 1);
        text.field("aof_rewrite_in_progress", 0);
        text.field("aof_rewrite_scheduled", 0);
        let whole = engine.log.broken().is_none();
        text.field("aof_last_write_status", if whole { "ok" } else { "err" });
    }
    if text.section("Stats", true) {
        let rates = server.rates.per_second(engine.now.monotonic_ms, stats);
        text.field("total_connections_received", stats.clients_lifetime);
        text.field("total_commands_processed", stats.commands);
        text.field("instantaneous_ops_per_sec", rates.commands.round());
        text.field("total_net_input_bytes", stats.received_bytes);
        text.field("total_net_output_bytes", stats.sent_bytes);
        text.field("instantaneous_input_kbps", kib(rates.received_bytes));
        text.field("instantaneous_output_kbps", kib(rates.sent_bytes));
        text.field("rejected_connections", stats.rejected_connections);
        text.field("client_output_buffer_limit_disconnections", stats.output_limit_disconnections);
        text.field("acl_access_denied_auth", stats.passwords_wrong);
        text.field("expired_keys", 0);
        text.field("evicted_keys", 0);
        text.field("keyspace_hits", stats.hits);
        text.field("keyspace_misses", stats.misses);
        text.field("pubsub_channels", server.channels.count(Kind::Channel));
        text.field("pubsub_patterns", server.channels.count(Kind::Pattern));
        text.field("total_error_replies", stats.errors);
    }
    if text.section("Replication", true) {
        for (name, value) in replication::information(context) {
            text.field(&name, value);
        }
    }
    if text.section("CPU", true) {
        for (name, us) in [
            ("used_cpu_sys", usage.system_us),
            ("used_cpu_user", usage.user_us),
            ("used_cpu_sys_children", usage.children_system_us),
            ("used_cpu_user_children", usage.children_user_us),
            ("used_cpu_sys_main_thread", usage.main_system_us),
            ("used_cpu_user_main_thread", usage.main_user_us),
        ] {
            text.field(name, format_args!("{}.{:06}", us / 1_000_000, us % 1_000_000));
        }
    }
    if text.section("Commandstats", false) {
        server.latencies.iter().for_each(|(name, cost)| command_stats(text, name, cost));
    }
    if text.section("Latencystats", false) {
        for (name, cost) in server.latencies.iter() {
            if let Some(histogram) = &cost.histogram {
                text.field(&format!("latency_percentiles_usec_{name}"), percentiles(histogram));
            }
        }
    }
    if text.section("Cluster", true) {
        text.field("cluster_enabled", 0);
    }
    if text.section("Keyspace", true) {
        for (slot, namespace) in engine.namespaces.slots() {
            text.field(&format!("db{slot}"), keyspace(namespace));
        }
    }
}

fn command_stats(text: &mut Text<'_>, name: &str, cost: &CommandCost) {
    let total_us = us(cost.total_ns());
    let each_us = if cost.calls > 0 { total_us / cost.calls as f64 } else { 0.0 };
    text.field(
        &format!("cmdstat_{name}"),
        format_args!(
            "calls={},usec={},usec_per_call={each_us:.2},rejected_calls={},failed_calls={}",
            cost.calls, total_us as u64, cost.rejected, cost.failed
        ),
    );
}

fn percentiles(histogram: &Histogram) -> String {
    let at = |share| us(histogram.quantile_ns(share));
    format!("p50={:.3},p99={:.3},p99.9={:.3}", at(0.5), at(0.99), at(0.999))
}

fn keyspace(namespace: &Namespace) -> String {
    format!("keys={},expires=0,avg_ttl=0,name={}", namespace.live_keys, name_in_field(namespace))
}

fn space(namespace: &Namespace) -> String {
    let Space { live, history, dead } = namespace.space();
    let (retention, name) = (namespace.settings.retention, name_in_field(namespace));
    format!(
        "live_bytes={live},history_bytes={history},dead_bytes={dead},history={retention},name={name}"
    )
}

/// A name in which what would end the field or the line is written as a number.
fn name_in_field(namespace: &Namespace) -> String {
    let mut text = String::new();
    for byte in &namespace.name {
        match byte {
            b',' | b'=' | b'\\' => write!(text, "\\x{byte:02x}"),
            b'!'..=b'~' => write!(text, "{}", char::from(*byte)),
            _ => write!(text, "\\x{byte:02x}"),
        }
        .expect("writing to a string does not fail");
    }
    text
}

fn us(ns: u64) -> f64 {
    ns as f64 / 1000.0
}

fn kib(bytes: f64) -> String {
    format!("{:.2}", bytes / 1024.0)
}

/// As Redis writes sizes for people.
fn human(bytes: u64) -> String {
    let units = ["K", "M", "G", "T", "P", "E"];
    let step = (bytes.max(1).ilog2() / 10) as usize;
    match step {
        0 => format!("{bytes}B"),
        _ => format!("{:.2}{}", bytes as f64 / (1u64 << (10 * step)) as f64, units[step - 1]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_for_people() {
        for (bytes, text) in [
            (0, "0B"),
            (1023, "1023B"),
            (1024, "1.00K"),
            (1 << 20, "1.00M"),
            (5 << 29, "2.50G"),
            (u64::MAX, "16.00E"),
        ] {
            assert_eq!(human(bytes), text);
        }
    }
}
