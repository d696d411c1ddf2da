//! Checks of fields that several services take. Each error says what was expected.

/// A meter id: 1..64 characters of `[A-Za-z0-9._-]`.
///
/// # Errors
/// Says which rule the id breaks.
pub fn meter_id(id: &str) -> Result<(), String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    match id {
        "" => Err("is required".to_owned()),
        _ if id.len() > 64 => Err("has more than 64 characters".to_owned()),
        _ if !id.chars().all(allowed) => Err("may hold only [A-Za-z0-9._-]".to_owned()),
        _ => Ok(()),
    }
}

/// A UUID in text form, 36 characters.
///
/// # Errors
/// Says that it is no UUID.
pub fn uuid(id: &str) -> Result<(), String> {
    if id.len() != 36 {
        return Err("must be a UUID of 36 characters".to_owned());
    }
    uuid::Uuid::try_parse(id)
        .map(drop)
        .map_err(|_| "must be a UUID of 36 characters".to_owned())
}

/// Text of `min..=max` characters without control characters.
///
/// # Errors
/// Says which bound it breaks.
pub fn text(value: &str, min: usize, max: usize) -> Result<(), String> {
    let count = value.chars().count();
    if count < min {
        return Err(if count == 0 {
            "is required".to_owned()
        } else {
            format!("has fewer than {min} characters")
        });
    }
    if count > max {
        return Err(format!("has more than {max} characters"));
    }
    if value.chars().any(char::is_control) {
        return Err("holds a control character".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meter_ids() {
        assert!(meter_id("meter-0001").is_ok());
        for bad in ["", "a/b", "a b", "é", &"x".repeat(65), "a\n"] {
            assert!(meter_id(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn uuids() {
        assert!(uuid("018f3c5e-7b1a-7c3d-9e4f-5a6b7c8d9e0f").is_ok());
        assert!(uuid("018f3c5e7b1a7c3d9e4f5a6b7c8d9e0f").is_err());
        assert!(uuid("").is_err());
    }

    #[test]
    fn texts() {
        assert!(text("ok", 1, 2).is_ok());
        assert!(text("", 1, 2).is_err());
        assert!(text("abc", 1, 2).is_err());
        assert!(text("a\nb", 1, 9).is_err());
    }
}
