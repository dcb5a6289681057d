//! Keys that a text gives to several values.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use crate::record::Field;

/// Up to so many fields are compared each with each.
const FEW: usize = 16;

/// Makes the keys of `fields` unique without losing a value: the second value of `ip` gets the key
/// `ip.2`, the third `ip.3`, and a number whose key is taken already is left out.
pub fn number_repeated(fields: &mut [Field<'_>]) {
    let few = fields.len() <= FEW;
    let repeats = |(at, field): (usize, &Field<'_>)| {
        fields.iter().take(at).any(|earlier| earlier.key == field.key)
    };
    if few && !fields.iter().enumerate().any(repeats) {
        return;
    }
    let mut taken: HashSet<Vec<u8>> = fields.iter().map(|field| field.key.to_vec()).collect();
    let mut counts: HashMap<Vec<u8>, u32> = HashMap::new();
    for field in fields {
        // The count stays for the next one, so that many equal keys take no quadratic time.
        let count = counts.entry(field.key.to_vec()).or_insert(0);
        *count += 1;
        while *count > 1 {
            let key = [&field.key, &b"."[..], count.to_string().as_bytes()].concat();
            if taken.insert(key.clone()) {
                field.key = Cow::Owned(key);
                break;
            }
            *count += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbered(keys: &[&str]) -> Vec<String> {
        let mut fields: Vec<_> = keys
            .iter()
            .map(|key| Field { key: key.as_bytes().into(), value: b"v"[..].into() })
            .collect();
        number_repeated(&mut fields);
        fields.iter().map(|field| String::from_utf8(field.key.to_vec()).unwrap()).collect()
    }

    #[test]
    fn a_repeated_key_gets_a_number_that_no_other_key_has() {
        assert_eq!(numbered(&["a", "b"]), ["a", "b"]);
        assert_eq!(numbered(&["a", "b", "a", "a"]), ["a", "b", "a.2", "a.3"]);
        assert_eq!(numbered(&["a", "a", "a.2"]), ["a", "a.3", "a.2"]);
        assert_eq!(numbered(&["a", "a.2", "a.2", "a"]), ["a", "a.2", "a.2.2", "a.3"]);
    }

    #[test]
    fn many_keys_are_unique_too() {
        let keys = vec!["k"; 5000];
        let unique: HashSet<_> = numbered(&keys).into_iter().collect();
        assert_eq!(unique.len(), 5000);
    }
}
