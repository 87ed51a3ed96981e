//! What a dashboard gets. In the benches and in `tests/it`.

/// A snapshot of a dashboard, as JSON: 64 hosts with 16 metrics each, some 64 KB. The values have
/// all the digits of a float, which nothing compresses to less than half.
pub(crate) fn snapshot() -> Vec<u8> {
    const METRICS: [&str; 16] = [
        "cpu_user_percent",
        "cpu_system_percent",
        "cpu_iowait_percent",
        "load_average_1m",
        "load_average_5m",
        "load_average_15m",
        "memory_used_percent",
        "memory_cached_percent",
        "swap_used_percent",
        "disk_read_mbps",
        "disk_write_mbps",
        "disk_used_percent",
        "network_receive_mbps",
        "network_transmit_mbps",
        "http_requests_per_second",
        "http_latency_p99_ms",
    ];
    let mut random = fastrand::Rng::with_seed(7);
    let mut metric = |name: &&str| {
        let value = random.f64() * 100.0;
        format!("{{\"name\":\"{name}\",\"value\":{value}}}")
    };
    let mut host = |host: u64| {
        let metrics: Vec<String> = METRICS.iter().map(&mut metric).collect();
        let (ts, metrics) = (1_732_153_200_000 + host * 7 % 50, metrics.join(","));
        format!(
            "{{\"host\":\"web-{host:02}.eu-central-1.example.com\",\"region\":\"eu-central-1\",\
             \"ts\":{ts},\"healthy\":true,\"metrics\":[{metrics}]}}"
        )
    };
    let hosts: Vec<String> = (0..64).map(&mut host).collect();
    let hosts = hosts.join(",");
    format!("{{\"dashboard\":\"production\",\"seq\":1,\"hosts\":[{hosts}]}}").into_bytes()
}
