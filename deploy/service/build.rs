//! Stamps the build time, the floor under which no certificate is judged (`service::tls`).

/// `SOURCE_DATE_EPOCH` (seconds, for reproducible builds) or the time of this build.
fn main() {
    println!("cargo::rerun-if-env-changed=SOURCE_DATE_EPOCH");
    println!("cargo::rerun-if-changed=build.rs");
    let stated = std::env::var("SOURCE_DATE_EPOCH").ok();
    let seconds = match stated.as_deref().map(str::parse::<u64>) {
        Some(Ok(seconds)) => seconds,
        Some(Err(error)) => panic!("SOURCE_DATE_EPOCH is not a number of seconds: {error}"),
        None => build_time_s(),
    };
    println!("cargo::rustc-env=VERST_BUILD_TIME_S={seconds}");
}

#[expect(clippy::disallowed_methods, reason = "the build's clock shell")]
fn build_time_s() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map(|since| since.as_secs()).unwrap_or_default()
}
