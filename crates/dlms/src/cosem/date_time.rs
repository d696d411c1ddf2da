//! Dates and times as COSEM writes them (Blue Book 4.1.6.1): octets in which every field may be left open.
//!
//! The octets are kept as they came; the accessors say what they mean. So nothing a meter sends is lost or refused,
//! and what is not a moment does not become one.

use core::fmt;

use super::value::{Mismatch, Value, fixed};
use crate::data::Data;

/// The octet of a field that is not specified.
const OPEN: u8 = 0xFF;
/// The deviation that is not specified.
const NO_DEVIATION: i16 = i16::MIN;
const MS_PER_DAY: i64 = 86_400_000;

/// A date: year, month, day of the month, day of the week; 5 octets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Date(pub [u8; 5]);

/// The month of a date.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Month {
    /// 1 to 12.
    Number(u8),
    /// FD: the month in which daylight saving ends.
    DaylightSavingsEnd,
    /// FE: the month in which daylight saving begins.
    DaylightSavingsBegin,
    /// FF: every month.
    Any,
}

/// The day of the month of a date.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Day {
    /// 1 to 31.
    Number(u8),
    /// FD: the second last day of the month.
    SecondLast,
    /// FE: the last day of the month.
    Last,
    /// FF: every day.
    Any,
}

impl Date {
    /// A date that leaves everything open.
    pub const ANY: Self = Self([OPEN; 5]);

    /// A date with year (1 to 9999), month and day; the day of the week is worked out. `None` if there is no such day.
    #[must_use]
    pub fn new(year: u16, month: u8, day: u8) -> Option<Self> {
        let days = days_from_civil(i64::from(year), i64::from(month), i64::from(day))?;
        let [high, low] = year.to_be_bytes();
        Some(Self([high, low, month, day, weekday(days)]))
    }

    /// The year; `None` is every year.
    #[must_use]
    pub const fn year(self) -> Option<u16> {
        let [high, low, ..] = self.0;
        match u16::from_be_bytes([high, low]) {
            u16::MAX => None,
            year => Some(year),
        }
    }

    /// The month; `None` if the octet means none.
    #[must_use]
    pub const fn month(self) -> Option<Month> {
        let [_, _, month, ..] = self.0;
        match month {
            1..=12 => Some(Month::Number(month)),
            0xFD => Some(Month::DaylightSavingsEnd),
            0xFE => Some(Month::DaylightSavingsBegin),
            OPEN => Some(Month::Any),
            _ => None,
        }
    }

    /// The day of the month; `None` if the octet means none.
    #[must_use]
    pub const fn day(self) -> Option<Day> {
        let [_, _, _, day, _] = self.0;
        match day {
            1..=31 => Some(Day::Number(day)),
            0xFD => Some(Day::SecondLast),
            0xFE => Some(Day::Last),
            OPEN => Some(Day::Any),
            _ => None,
        }
    }

    /// The day of the week, Monday being 1; `None` is every day.
    #[must_use]
    pub const fn weekday(self) -> Option<u8> {
        let [.., weekday] = self.0;
        match weekday {
            1..=7 => Some(weekday),
            _ => None,
        }
    }

    /// Days since 1970-01-01, if the date names one day.
    fn days(self) -> Option<i64> {
        let (Some(Month::Number(month)), Some(Day::Number(day))) = (self.month(), self.day())
        else {
            return None;
        };
        days_from_civil(i64::from(self.year()?), i64::from(month), i64::from(day))
    }
}

impl Value for Date {
    const EXPECTED: &'static str = "octet-string of 5 octets";

    fn to_data(&self) -> Data {
        Data::OctetString(self.0.to_vec())
    }

    fn from_data(data: &Data) -> Result<Self, Mismatch> {
        fixed(data, Self::EXPECTED).map(Self)
    }
}

/// A time of day: hour, minute, second, hundredths; 4 octets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Time(pub [u8; 4]);

impl Time {
    /// Midnight.
    pub const MIDNIGHT: Self = Self([0; 4]);

    /// Hour, minute and second, where they are specified and can be.
    #[must_use]
    pub const fn parts(self) -> [Option<u8>; 3] {
        let [hour, minute, second, _] = self.0;
        [below(hour, 24), below(minute, 60), below(second, 60)]
    }

    /// Milliseconds since midnight, if hour, minute and second are specified; open hundredths count as 0.
    #[must_use]
    pub const fn ms(self) -> Option<u32> {
        let [Some(hour), Some(minute), Some(second)] = self.parts() else {
            return None;
        };
        let [_, _, _, hundredths] = self.0;
        let hundredths = match hundredths {
            0..=99 => hundredths,
            OPEN => 0,
            _ => return None,
        };
        Some(from_parts(hour, minute, second, hundredths))
    }
}

impl Value for Time {
    const EXPECTED: &'static str = "octet-string of 4 octets";

    fn to_data(&self) -> Data {
        Data::OctetString(self.0.to_vec())
    }

    fn from_data(data: &Data) -> Result<Self, Mismatch> {
        fixed(data, Self::EXPECTED).map(Self)
    }
}

/// A date, a time of day, the deviation to UTC and the clock's status; 12 octets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DateTime(pub [u8; 12]);

impl DateTime {
    /// A moment that leaves everything open.
    pub const ANY: Self = Self([
        OPEN, OPEN, OPEN, OPEN, OPEN, OPEN, OPEN, OPEN, OPEN, 0x80, 0, OPEN,
    ]);

    /// A moment in UTC, with deviation 0 and status 0. `ms` counts from the Unix epoch; years 1 to 9999.
    #[must_use]
    pub fn utc(ms: i64) -> Option<Self> {
        let (date, time) = civil(ms)?;
        let ([y1, y2, month, day, weekday], [hour, minute, second, hundredths]) = (date.0, time.0);
        Some(Self([
            y1, y2, month, day, weekday, hour, minute, second, hundredths, 0, 0, 0,
        ]))
    }

    /// The date.
    #[must_use]
    pub const fn date(self) -> Date {
        let [y1, y2, month, day, weekday, ..] = self.0;
        Date([y1, y2, month, day, weekday])
    }

    /// The time of day.
    #[must_use]
    pub const fn time(self) -> Time {
        let [_, _, _, _, _, hour, minute, second, hundredths, ..] = self.0;
        Time([hour, minute, second, hundredths])
    }

    /// Minutes to add to the local time to get UTC; `None` if not specified.
    #[must_use]
    pub const fn deviation(self) -> Option<i16> {
        let [_, _, _, _, _, _, _, _, _, high, low, _] = self.0;
        match i16::from_be_bytes([high, low]) {
            NO_DEVIATION => None,
            minutes => Some(minutes),
        }
    }

    /// The status of the clock when it was written.
    #[must_use]
    pub const fn status(self) -> ClockStatus {
        let [.., status] = self.0;
        ClockStatus(status)
    }

    /// The same local time some seconds later, deviation and status kept; `None` if it names no moment.
    #[must_use]
    pub fn later(self, seconds: u32) -> Option<Self> {
        let local = self.date().days()?.checked_mul(MS_PER_DAY)?;
        let local = local.checked_add(i64::from(self.time().ms()?))?;
        let (date, time) = civil(local.checked_add(i64::from(seconds).checked_mul(1000)?)?)?;
        let ([y1, y2, month, day, weekday], [hour, minute, second, _]) = (date.0, time.0);
        let [_, _, _, _, _, _, _, _, hundredths, d1, d2, status] = self.0;
        Some(Self([
            y1, y2, month, day, weekday, hour, minute, second, hundredths, d1, d2, status,
        ]))
    }

    /// Milliseconds since the Unix epoch, if date and time name one moment. Open hundredths and an open deviation
    /// count as 0.
    #[must_use]
    pub fn unix_ms(self) -> Option<i64> {
        let day = self.date().days()?.checked_mul(MS_PER_DAY)?;
        let deviation = i64::from(self.deviation().unwrap_or(0)).checked_mul(60_000)?;
        day.checked_add(i64::from(self.time().ms()?))?
            .checked_add(deviation)
    }
}

/// `2026-11-22 21:05:01`, with `*` for what is open.
impl fmt::Display for DateTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.date().year() {
            Some(year) => write!(f, "{year:04}-")?,
            None => f.write_str("*-")?,
        }
        match self.date().month() {
            Some(Month::Number(month)) => write!(f, "{month:02}-")?,
            Some(Month::DaylightSavingsBegin) => f.write_str("dst begin-")?,
            Some(Month::DaylightSavingsEnd) => f.write_str("dst end-")?,
            Some(Month::Any) => f.write_str("*-")?,
            None => f.write_str("?-")?,
        }
        match self.date().day() {
            Some(Day::Number(day)) => write!(f, "{day:02}")?,
            Some(Day::SecondLast) => f.write_str("second last")?,
            Some(Day::Last) => f.write_str("last")?,
            Some(Day::Any) => f.write_str("*")?,
            None => f.write_str("?")?,
        }
        for (lead, part) in [" ", ":", ":"].into_iter().zip(self.time().parts()) {
            match part {
                Some(part) => write!(f, "{lead}{part:02}")?,
                None => write!(f, "{lead}*")?,
            }
        }
        Ok(())
    }
}

impl Value for DateTime {
    const EXPECTED: &'static str = "octet-string of 12 octets";

    fn to_data(&self) -> Data {
        Data::OctetString(self.0.to_vec())
    }

    fn from_data(data: &Data) -> Result<Self, Mismatch> {
        fixed(data, Self::EXPECTED).map(Self)
    }
}

/// The status of a clock (class 8, attribute 4, and the last octet of a date-time); FF means not specified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ClockStatus(pub u8);

impl ClockStatus {
    const fn bit(self, bit: u8) -> bool {
        self.is_specified() && self.0 & (1 << bit) != 0
    }

    /// Whether it says anything: not FF.
    #[must_use]
    pub const fn is_specified(self) -> bool {
        self.0 != OPEN
    }

    /// Bit 0: the time could not be recovered after a power failure.
    #[must_use]
    pub const fn is_invalid(self) -> bool {
        self.bit(0)
    }

    /// Bit 1: the time was recovered, but its value cannot be guaranteed.
    #[must_use]
    pub const fn is_doubtful(self) -> bool {
        self.bit(1)
    }

    /// Bit 2: another clock base than the usual one.
    #[must_use]
    pub const fn has_other_base(self) -> bool {
        self.bit(2)
    }

    /// Bit 3: the status itself cannot be trusted.
    #[must_use]
    pub const fn is_itself_invalid(self) -> bool {
        self.bit(3)
    }

    /// Bit 7: daylight saving is active, and the deviation contains it.
    #[must_use]
    pub const fn is_daylight_saving(self) -> bool {
        self.bit(7)
    }
}

impl Value for ClockStatus {
    const EXPECTED: &'static str = "unsigned";

    fn to_data(&self) -> Data {
        Data::Unsigned(self.0)
    }

    fn from_data(data: &Data) -> Result<Self, Mismatch> {
        u8::from_data(data).map(Self)
    }
}

const fn below(octet: u8, limit: u8) -> Option<u8> {
    if octet < limit { Some(octet) } else { None }
}

#[allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    reason = "parts of a day that were checked: at most 86 400 000; From is not const"
)]
const fn from_parts(hour: u8, minute: u8, second: u8, hundredths: u8) -> u32 {
    ((hour as u32 * 60 + minute as u32) * 60 + second as u32) * 1000 + hundredths as u32 * 10
}

/// Days since 1970-01-01 of a date of the Gregorian calendar; `None` if there is no such day.
#[allow(
    clippy::arithmetic_side_effects,
    reason = "a year of at most 9999: every number stays below 10^7"
)]
fn days_from_civil(year: i64, month: i64, day: i64) -> Option<i64> {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let length = match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if !(1..=9999).contains(&year) || !(1..=length).contains(&day) {
        return None;
    }
    // March is the first month: then the leap day is the last of the year
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let before = 365 * year + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    Some(before + (153 * month + 2) / 5 + day - 719_469)
}

/// Monday is 1.
fn weekday(days: i64) -> u8 {
    // 1970-01-01 was a Thursday
    let monday_based = days.saturating_add(3).rem_euclid(7);
    u8::try_from(monday_based).unwrap_or(0).saturating_add(1)
}

/// Date and time of day in UTC of milliseconds since the Unix epoch, for years 1 to 9999.
#[allow(
    clippy::arithmetic_side_effects,
    reason = "days within 9999 years: every number stays below 10^9"
)]
fn civil(ms: i64) -> Option<(Date, Time)> {
    let days = ms.div_euclid(MS_PER_DAY);
    if !(-719_162..=2_932_896).contains(&days) {
        return None;
    }
    // the inverse of `days_from_civil`, in eras of 400 years
    let shifted = days + 719_468;
    let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let octet = |number: i64| u8::try_from(number).ok();
    let [high, low] = u16::try_from(year).ok()?.to_be_bytes();
    let date = Date([high, low, octet(month)?, octet(day)?, weekday(days)]);
    let of_day = ms.rem_euclid(MS_PER_DAY);
    let time = Time([
        octet(of_day / 3_600_000)?,
        octet(of_day / 60_000 % 60)?,
        octet(of_day / 1000 % 60)?,
        octet(of_day % 1000 / 10)?,
    ]);
    Some((date, time))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    const EVENING: DateTime = DateTime([0x07, 0xEA, 11, 22, 7, 21, 5, 1, 0xFF, 0, 60, 0x80]);

    #[test]
    fn moments_both_ways() {
        for (ms, octets) in [
            (0, [0x07, 0xB2, 1, 1, 4, 0, 0, 0, 0, 0, 0, 0]),
            (
                951_868_799_990,
                [0x07, 0xD0, 2, 29, 2, 23, 59, 59, 99, 0, 0, 0],
            ),
            (
                1_795_380_245_000,
                [0x07, 0xEA, 11, 22, 7, 20, 44, 5, 0, 0, 0, 0],
            ),
            (-1_000, [0x07, 0xB1, 12, 31, 3, 23, 59, 59, 0, 0, 0, 0]),
            (
                253_402_300_799_000,
                [0x27, 0x0F, 12, 31, 5, 23, 59, 59, 0, 0, 0, 0],
            ),
        ] {
            assert_eq!(DateTime::utc(ms), Some(DateTime(octets)), "{ms}");
            assert_eq!(DateTime(octets).unix_ms(), Some(ms));
        }
        assert_eq!(DateTime::utc(253_402_300_800_000), None);
        assert_eq!(DateTime::utc(i64::MIN), None);
        assert_eq!(DateTime::utc(i64::MAX), None);
    }

    #[test]
    fn the_deviation_leads_from_local_time_to_utc() {
        let utc = DateTime::utc(1_795_381_501_000).unwrap().unix_ms().unwrap();
        assert_eq!(EVENING.unix_ms(), Some(utc + 3_600_000));
        assert_eq!(EVENING.deviation(), Some(60));
        assert!(EVENING.status().is_daylight_saving() && !EVENING.status().is_invalid());
        let mut open = EVENING;
        open.0[9..11].copy_from_slice(&[0x80, 0]);
        assert_eq!((open.deviation(), open.unix_ms()), (None, Some(utc)));
    }

    /// Peers have been seen to exchange FD and FE: begin is FE, end is FD.
    #[test]
    fn daylight_saving_begins_with_fe_and_ends_with_fd() {
        let month = |octet| Date([0xFF, 0xFF, octet, 0xFE, 7]).month();
        assert_eq!(month(0xFE), Some(Month::DaylightSavingsBegin));
        assert_eq!(month(0xFD), Some(Month::DaylightSavingsEnd));
        assert_eq!(month(0xFF), Some(Month::Any));
        assert_eq!(month(0), None);
        let day = |octet| Date([0xFF, 0xFF, 3, octet, 7]).day();
        assert_eq!(day(0xFE), Some(Day::Last));
        assert_eq!(day(0xFD), Some(Day::SecondLast));
        assert_eq!((day(0xE0), day(0)), (None, None));
    }

    #[test]
    fn what_names_no_moment_is_none() {
        assert_eq!(DateTime::ANY.unix_ms(), None);
        assert_eq!(DateTime([0; 12]).unix_ms(), None);
        for (place, octet) in [
            (2, 13),
            (2, 0xFE),
            (3, 31),
            (3, 0xFD),
            (5, 24),
            (6, 60),
            (7, 0xFF),
            (8, 100),
        ] {
            let mut broken = EVENING;
            broken.0[place] = octet;
            assert_eq!(broken.unix_ms(), None, "octet {place} = {octet}");
        }
        assert_eq!(Date::new(2026, 2, 29), None);
        assert_eq!(Date::new(1900, 2, 29), None);
        assert_eq!(
            Date::new(2000, 2, 29),
            Some(Date([0x07, 0xD0, 2, 29, 2])),
            "a Tuesday"
        );
    }

    #[test]
    fn people_read_it() {
        assert_eq!(EVENING.to_string(), "2026-11-22 21:05:01");
        assert_eq!(DateTime::ANY.to_string(), "*-*-* *:*:*");
        let dst = DateTime([0xFF, 0xFF, 3, 0xFE, 7, 2, 0, 0, 0, 0x80, 0, 0]);
        assert_eq!(dst.to_string(), "*-03-last 02:00:00");
    }

    #[test]
    fn a_status_that_is_not_specified_says_nothing() {
        let status = ClockStatus(0xFF);
        assert!(!status.is_specified() && ClockStatus(0).is_specified());
        assert!(!status.is_invalid() && !status.is_daylight_saving());
        assert!(ClockStatus(0x01).is_invalid() && ClockStatus(0x02).is_doubtful());
        assert!(ClockStatus(0x04).has_other_base() && ClockStatus(0x08).is_itself_invalid());
    }
}
