//! Values that are stored as they are: text, bytes and numbers.

use std::borrow::Cow;

use bytes::Bytes;

use crate::error::{Error, ErrorKind, Result};

/// What a plain value can be made from: text, bytes, integers and floats.
///
/// The bytes are those that redis-py writes for the same value: text and bytes as they are,
/// integers in decimal, floats as Python prints them (`1.0`, `0.1`, `1e+16`, `1e-05`). A `bool` is
/// no value: redis-py refuses it as well, since readers disagree on how it is spelled.
///
/// ```
/// use larder::IntoValue;
///
/// assert_eq!("grüezi".into_value()?, "grüezi".as_bytes());
/// assert_eq!(42_u64.into_value()?, "42");
/// assert_eq!(1e16.into_value()?, "1e+16");
/// assert!(f64::NAN.into_value().unwrap_err().is_invalid_input());
/// # Ok::<(), larder::Error>(())
/// ```
pub trait IntoValue {
    /// The bytes to store.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for a float that is NaN or infinite.
    fn into_value(self) -> Result<Bytes>;
}

macro_rules! owned {
    ($($type:ty),*) => {$(
        impl IntoValue for $type {
            fn into_value(self) -> Result<Bytes> {
                Ok(Bytes::from(self))
            }
        }
    )*};
}

macro_rules! borrowed {
    ($($type:ty),*) => {$(
        impl IntoValue for $type {
            fn into_value(self) -> Result<Bytes> {
                let bytes: &[u8] = self.as_ref();
                Ok(Bytes::copy_from_slice(bytes))
            }
        }
    )*};
}

macro_rules! integers {
    ($($type:ty),*) => {$(
        impl IntoValue for $type {
            fn into_value(self) -> Result<Bytes> {
                Ok(Bytes::from(self.to_string()))
            }
        }
        impl IntoValue for &$type {
            fn into_value(self) -> Result<Bytes> {
                (*self).into_value()
            }
        }
    )*};
}

macro_rules! floats {
    ($($type:ty),*) => {$(
        impl IntoValue for $type {
            fn into_value(self) -> Result<Bytes> {
                if !self.is_finite() {
                    return Err(Error::new(
                        ErrorKind::InvalidInput,
                        "the value is not a finite number",
                    ));
                }
                let size = self.abs();
                // The bounds at which Python turns to an exponent; Rust has others.
                let text = if size == 0.0 || (1e-4..1e16).contains(&size) {
                    format!("{self:?}")
                } else {
                    python_exponent(&format!("{self:e}"))
                };
                Ok(Bytes::from(text))
            }
        }
        impl IntoValue for &$type {
            fn into_value(self) -> Result<Bytes> {
                (*self).into_value()
            }
        }
    )*};
}

/// `1e16` and `1e-5` as Python spells them: `1e+16` and `1e-05`.
fn python_exponent(rust: &str) -> String {
    let (digits, exponent) = rust.split_once('e').unwrap_or((rust, "0"));
    match exponent.strip_prefix('-') {
        Some(exponent) => format!("{digits}e-{exponent:0>2}"),
        None => format!("{digits}e+{exponent:0>2}"),
    }
}

owned!(String, Vec<u8>, Bytes);
borrowed!(&str, &String, &[u8], &Vec<u8>, &Bytes);
integers!(i8, i16, i32, i64, i128, isize, u8, u16, u32, u64, u128, usize);
floats!(f32, f64);

impl<const N: usize> IntoValue for [u8; N] {
    fn into_value(self) -> Result<Bytes> {
        Ok(Bytes::copy_from_slice(&self))
    }
}

impl<const N: usize> IntoValue for &[u8; N] {
    fn into_value(self) -> Result<Bytes> {
        Ok(Bytes::copy_from_slice(self))
    }
}

impl IntoValue for Cow<'_, str> {
    fn into_value(self) -> Result<Bytes> {
        Ok(Bytes::from(self.into_owned()))
    }
}

/// The stored bytes as text, without a copy if nobody else holds them. The error hands them back
/// ([`Error::undecoded`]), since a pop has taken them out of the store.
pub(crate) fn decode_text(bytes: Bytes) -> Result<String> {
    String::from_utf8(Vec::from(bytes)).map_err(|error| {
        Error::new(ErrorKind::Decode, "the value is not UTF-8 text; use get_bytes")
            .with_undecoded(Bytes::from(error.into_bytes()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_nobody_else_holds_is_not_copied() {
        let bytes = Bytes::from(b"text".to_vec());
        let at = bytes.as_ptr();
        let text = decode_text(bytes).unwrap();
        assert_eq!((text.as_str(), text.as_ptr()), ("text", at));
    }

    #[test]
    fn bytes_that_are_not_text_are_an_error_that_hands_them_back() {
        let error = decode_text(Bytes::from_static(b"canary\xff")).unwrap_err();
        assert!(error.is_decode());
        assert_eq!(error.undecoded().unwrap(), &b"canary\xff"[..]);
        assert!(!format!("{error} {error:?}").contains("canary"));
    }

    #[test]
    fn a_float_of_either_width_is_spelled_with_the_fewest_digits_that_tell_it_apart() {
        assert_eq!(0.1_f32.into_value().unwrap(), "0.1");
        assert_eq!(1e16_f32.into_value().unwrap(), "1e+16");
        assert_eq!((-0.0).into_value().unwrap(), "-0.0");
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert_eq!(bad.into_value().unwrap_err().kind(), ErrorKind::InvalidInput);
        }
        assert_eq!(f32::NAN.into_value().unwrap_err().kind(), ErrorKind::InvalidInput);
    }
}
