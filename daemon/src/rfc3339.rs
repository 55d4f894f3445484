//! A moment as logs and status write it: RFC 3339, UTC, to the microsecond or the second.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

/// 2026-01-31T08:15:30.123456Z. Moments before 1970 are told as its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Utc {
    seconds: u64,
    micros: Option<u32>,
}

impl Utc {
    pub fn of(moment: SystemTime) -> Self {
        let since = moment.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            seconds: since.as_secs(),
            micros: Some(since.subsec_micros()),
        }
    }

    pub fn to_the_second(mut self) -> Self {
        self.micros = None;
        self
    }
}

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = date(self.seconds / DAY);
        let second = self.seconds % DAY;
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}"
        )?;
        if let Some(micros) = self.micros {
            write!(f, ".{micros:06}")?;
        }
        f.write_str("Z")
    }
}

/// Year, month and day of a day counted from 1970. Years begin in March here, so that the day
/// that some have more is their last.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + MARCH_0000_TO_1970;
    let (era, day) = (days / DAYS_IN_400_YEARS, days % DAYS_IN_400_YEARS);
    let leap_days = |day: u64| day / 1_460 - day / 36_524 + day / 146_096;
    let year = (day - leap_days(day)) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    // Five months from March on have 153 days, and so do the next five.
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 {
        (month + 3, 0)
    } else {
        (month - 9, 1)
    };
    (era * 400 + year + next, month, day)
}

const DAY: u64 = 24 * 60 * 60;
const DAYS_IN_400_YEARS: u64 = 146_097;
const MARCH_0000_TO_1970: u64 = 719_468;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn at(seconds: u64, micros: u64) -> String {
        let since = Duration::from_secs(seconds) + Duration::from_micros(micros);
        Utc::of(UNIX_EPOCH + since).to_string()
    }

    #[test]
    fn known_moments() {
        assert_eq!(at(0, 0), "1970-01-01T00:00:00.000000Z");
        assert_eq!(at(951_782_399, 0), "2000-02-28T23:59:59.000000Z");
        assert_eq!(at(951_782_400, 0), "2000-02-29T00:00:00.000000Z");
        assert_eq!(at(951_868_800, 0), "2000-03-01T00:00:00.000000Z");
        assert_eq!(at(1_700_000_000, 42), "2023-11-14T22:13:20.000042Z");
        assert_eq!(at(4_107_542_399, 999_999), "2100-02-28T23:59:59.999999Z");
        assert_eq!(at(4_107_542_400, 0), "2100-03-01T00:00:00.000000Z");
    }

    #[test]
    fn a_clock_before_1970_is_no_panic() {
        let before = UNIX_EPOCH - Duration::from_secs(5);
        let told = Utc::of(before).to_the_second().to_string();
        assert_eq!(told, "1970-01-01T00:00:00Z");
    }

    proptest! {
        #[test]
        fn each_day_is_the_next_of_the_one_before(day in 1u64..1_000_000) {
            let (before, today) = (date(day - 1), date(day));
            let follows = today == (before.0, before.1, before.2 + 1)
                || (today == (before.0, before.1 + 1, 1) && before.2 >= 28)
                || (today == (before.0 + 1, 1, 1) && before.1 == 12 && before.2 == 31);
            prop_assert!(follows, "{before:?} → {today:?}");
            prop_assert!((1..=12).contains(&today.1) && (1..=31).contains(&today.2));
        }
    }
}
