//! No object is known that panics, or it would not any more. So that tests can see what becomes of one
//! from the outside, debug builds panic over objects that contain the text `WEIR_PANIC_OVER`.

use weir_config::api::Object;

#[cfg(debug_assertions)]
pub fn panic_over(object: &Object) {
    use std::{env, sync::LazyLock};

    static TEXT: LazyLock<Option<String>> = LazyLock::new(|| env::var("WEIR_PANIC_OVER").ok());
    let Some(text) = &*TEXT else { return };
    assert!(!format!("{object:?}").contains(text), "asked to panic over {text}");
}

#[cfg(not(debug_assertions))]
pub fn panic_over(_object: &Object) {}
