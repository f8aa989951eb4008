//! The door: what the camera's software posts, judged item by item, made durable, answered.
