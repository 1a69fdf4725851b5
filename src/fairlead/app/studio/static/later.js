// What lies far below is drawn a moment after the rest of the page was painted.
import { useEffect, useState } from "./view.js";

const MOMENT = 50; // milliseconds

export function Later({ children }) {
  const [due, setDue] = useState(false);
  useEffect(() => {
    const timer = setTimeout(() => setDue(true), MOMENT);
    return () => clearTimeout(timer);
  }, []);
  return due ? children() : null;
}
