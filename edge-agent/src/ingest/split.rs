//! A request's body taken apart into the texts of its items, before anything in them is judged: so
//! that one item that is not even JSON does not cost the others.
//!
//! Pure.

use std::ops::ControlFlow;

/// A body that has no items to judge.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum SplitError {
    #[error("body is empty")]
    Empty,
    #[error("body is neither a JSON object nor a JSON array")]
    NotItems,
    #[error("body ends inside {0}")]
    Unfinished(&'static str),
    #[error("body goes on after its end, at byte {0}")]
    Trailing(usize),
    #[error("body has more than {0} items")]
    TooMany(usize),
}

/// The items of a JSON object (one) or array. Commas and brackets outside of strings decide; what
/// lies between them is judged later.
pub(super) fn json(body: &str, items_max: usize) -> Result<Vec<&str>, SplitError> {
    let text = body.trim_matches(is_space);
    match text.as_bytes().first() {
        None => Err(SplitError::Empty),
        Some(b'{') => Ok(vec![text]),
        Some(b'[') => array(
            text,
            body.len() - body.trim_start_matches(is_space).len(),
            items_max,
        ),
        Some(_) => Err(SplitError::NotItems),
    }
}

/// The lines that are not blank.
pub(super) fn lines(body: &str, items_max: usize) -> Result<Vec<&str>, SplitError> {
    let lines = body.split('\n').map(|line| line.trim_matches(is_space));
    let items: Vec<_> = lines
        .filter(|line| !line.is_empty())
        .take(items_max + 1)
        .collect();
    if items.len() > items_max {
        Err(SplitError::TooMany(items_max))
    } else {
        Ok(items)
    }
}

fn array(text: &str, offset: usize, items_max: usize) -> Result<Vec<&str>, SplitError> {
    let mut items = Vec::new();
    let (mut depth, mut start) = (0_usize, 1_usize);
    let mut in_string = false;
    let mut escaped = false;
    let end = text.bytes().enumerate().try_for_each(|(at, byte)| {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            return ControlFlow::Continue(());
        }
        match byte {
            b'"' => in_string = true,
            b'{' | b'[' => depth += 1,
            b'}' | b']' => {
                depth -= 1;
                if depth == 0 {
                    return ControlFlow::Break(Ok(at));
                }
            }
            b',' if depth == 1 => {
                if items.len() == items_max {
                    return ControlFlow::Break(Err(SplitError::TooMany(items_max)));
                }
                items.push(text[start..at].trim_matches(is_space));
                start = at + 1;
            }
            _ => {}
        }
        ControlFlow::Continue(())
    });
    let end = match end {
        ControlFlow::Break(end) => end?,
        ControlFlow::Continue(()) if in_string => return Err(SplitError::Unfinished("a string")),
        ControlFlow::Continue(()) => return Err(SplitError::Unfinished("the array")),
    };
    if end + 1 != text.len() {
        return Err(SplitError::Trailing(offset + end + 1));
    }
    let last = text[start..end].trim_matches(is_space);
    if !(last.is_empty() && items.is_empty()) {
        items.push(last);
    }
    if items.len() > items_max {
        Err(SplitError::TooMany(items_max))
    } else {
        Ok(items)
    }
}

/// White space as JSON has it.
fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn objects_and_arrays_are_taken_apart_at_their_own_commas() {
        assert_eq!(json(" {\"a\":1} ", 9), Ok(vec!["{\"a\":1}"]));
        assert_eq!(json("[]", 9), Ok(vec![]));
        assert_eq!(json("[ 1 ,\n{\"a\":[1,2],\"b\":\"],[\"} ]", 9), {
            Ok(vec!["1", "{\"a\":[1,2],\"b\":\"],[\"}"])
        });
        assert_eq!(json(r#"["\",",NaN,]"#, 9), Ok(vec![r#""\",""#, "NaN", ""]));
    }

    #[test]
    fn bodies_without_items_are_refused() {
        assert_eq!(json(" \n", 9), Err(SplitError::Empty));
        assert_eq!(json("7", 9), Err(SplitError::NotItems));
        assert_eq!(json("[1,2", 9), Err(SplitError::Unfinished("the array")));
        assert_eq!(json("[\"a", 9), Err(SplitError::Unfinished("a string")));
        assert_eq!(json(" [1] x", 9), Err(SplitError::Trailing(4)));
    }

    #[test]
    fn the_limit_of_items_is_the_limit() {
        assert_eq!(json("[1,2,3]", 3).map(|items| items.len()), Ok(3));
        assert_eq!(json("[1,2,3]", 2), Err(SplitError::TooMany(2)));
        assert_eq!(lines("1\n\n2\r\n", 2), Ok(vec!["1", "2"]));
        assert_eq!(lines("1\n2\n3", 2), Err(SplitError::TooMany(2)));
    }

    proptest! {
        #[test]
        fn any_text_is_split_without_a_panic(text in "[\\[\\]{},\"\\\\a é\n]{0,64}") {
            let _items = json(&text, 4);
        }

        #[test]
        fn every_array_that_is_json_has_its_elements(values in prop::collection::vec(".{0,8}", 0..8)) {
            let text = serde_json::to_string(&values).unwrap();
            let items = json(&text, 8).unwrap();
            let read: Vec<String> = items.iter().map(|item| serde_json::from_str(item).unwrap()).collect();
            prop_assert_eq!(read, values);
        }
    }
}
