//! Amounts, always with their unit.

use std::time::Duration;

use bytesize::ByteSize;

/// `98.2 MiB`
pub(crate) fn bytes(size: ByteSize) -> String {
    size.display().iec().to_string()
}

/// `1.1 GiB/s`
pub(crate) fn rate(per_second: ByteSize) -> String {
    format!("{}/s", bytes(per_second))
}

/// `74 ms`, `1.92 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`: two figures that matter.
pub(crate) fn time(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 => format!("{} ms", duration.as_millis()),
        1..60 => format!("{:.2} s", duration.as_secs_f64()),
        60..3_600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

/// The same without fractions, for what is only guessed.
pub(crate) fn about(duration: Duration) -> String {
    match duration.as_secs() {
        seconds @ 0..60 => format!("{seconds} s"),
        seconds => time(Duration::from_secs(seconds)),
    }
}

/// `1 vCPU`, `2 vCPUs`
pub(crate) fn count(number: u32, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}

/// Whole milliseconds, for documents.
pub(crate) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_amount_has_its_unit() {
        let of = |milliseconds| time(Duration::from_millis(milliseconds));
        assert_eq!(of(0), "0 ms");
        assert_eq!(of(999), "999 ms");
        assert_eq!(of(1_920), "1.92 s");
        assert_eq!(of(200_000), "3 min 20 s");
        assert_eq!(of(7_500_000), "2 h 5 min");
        assert_eq!(of(273_600_000), "3 d 4 h");
        assert_eq!(bytes(ByteSize::mib(256)), "256.0 MiB");
        assert_eq!(rate(ByteSize::b(17)), "17 B/s");
        assert_eq!([0, 1, 2].map(|number| count(number, "vCPU")), ["0 vCPUs", "1 vCPU", "2 vCPUs"]);
    }
}
