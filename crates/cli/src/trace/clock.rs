//! COSEM date and time (IEC 62056-6-2, 4.1.6.1), wildcards included.

/// A date-time of twelve octets in words, or nothing if it cannot be one.
pub(crate) fn date_time(octets: &[u8]) -> Option<String> {
    let octets: &[u8; 12] = octets.try_into().ok()?;
    let [
        y1,
        y2,
        month,
        day,
        weekday,
        hour,
        minute,
        second,
        hundredths,
        d1,
        d2,
        status,
    ] = *octets;
    let date = date(&[y1, y2, month, day, weekday])?;
    let time = time(&[hour, minute, second, hundredths])?;
    let deviation = match i16::from_be_bytes([d1, d2]) {
        i16::MIN => "deviation not specified".to_owned(),
        minutes @ -840..=840 => format!("deviation {minutes} min"),
        _ => return None,
    };
    Some(format!(
        "{date} {time}, {deviation}{}",
        clock_status(status)
    ))
}

/// A date of five octets.
pub(crate) fn date(octets: &[u8]) -> Option<String> {
    let [y1, y2, month, day, weekday] = *octets else {
        return None;
    };
    let year = match u16::from_be_bytes([y1, y2]) {
        0xffff => "*".to_owned(),
        year @ 1900..=2300 => year.to_string(),
        _ => return None,
    };
    let month = match month {
        1..=12 => format!("{month:02}"),
        0xfd => "end-of-daylight-saving".to_owned(),
        0xfe => "begin-of-daylight-saving".to_owned(),
        0xff => "*".to_owned(),
        _ => return None,
    };
    let day = match day {
        1..=31 => format!("{day:02}"),
        0xfd => "2nd-last".to_owned(),
        0xfe => "last".to_owned(),
        0xff => "*".to_owned(),
        _ => return None,
    };
    let weekday = match weekday {
        1 => " Mon",
        2 => " Tue",
        3 => " Wed",
        4 => " Thu",
        5 => " Fri",
        6 => " Sat",
        7 => " Sun",
        // some meters write 0 for "not specified"
        0 | 0xff => "",
        _ => return None,
    };
    Some(format!("{year}-{month}-{day}{weekday}"))
}

/// A time of day of four octets.
pub(crate) fn time(octets: &[u8]) -> Option<String> {
    let [hour, minute, second, hundredths] = *octets else {
        return None;
    };
    let part = |value: u8, below: u8| match value {
        0xff => Some("*".to_owned()),
        value if value < below => Some(format!("{value:02}")),
        _ => None,
    };
    let (hour, minute, second) = (part(hour, 24)?, part(minute, 60)?, part(second, 60)?);
    let hundredths = match hundredths {
        0 | 0xff => String::new(),
        1..=99 => format!(".{hundredths:02}"),
        _ => return None,
    };
    Some(format!("{hour}:{minute}:{second}{hundredths}"))
}

fn clock_status(status: u8) -> String {
    if status == 0xff {
        return String::new();
    }
    let bits = [
        (0x01, "invalid value"),
        (0x02, "doubtful value"),
        (0x04, "different clock base"),
        (0x08, "invalid clock status"),
        (0x80, "daylight saving active"),
    ];
    let said: Vec<_> = bits
        .iter()
        .filter(|(bit, _)| status & bit != 0)
        .map(|(_, name)| *name)
        .collect();
    match said.as_slice() {
        [] => format!(", status {status:02x}"),
        said => format!(", status {status:02x}: {}", said.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_meters_and_of_schedules() {
        for (hex, said) in [
            (
                "07e50118ff0e303950ffc400",
                Some("2021-01-24 14:48:57.80, deviation -60 min, status 00"),
            ),
            (
                "07e00102060000ff00800080",
                Some(
                    "2016-01-02 Sat 00:00:*, deviation not specified, status 80: daylight saving active",
                ),
            ),
            (
                "fffffffeff0200000080000f",
                Some(
                    "*-*-last 02:00:00, deviation not specified, status 0f: invalid value, doubtful value, different clock base, invalid clock status",
                ),
            ),
            ("07e50d18ff0e303950ffc400", None),
            ("4b4643000102030405060708", None),
            ("07e5", None),
        ] {
            let octets = hex::decode(hex).unwrap();
            assert_eq!(date_time(&octets).as_deref(), said, "{hex}");
        }
    }
}
