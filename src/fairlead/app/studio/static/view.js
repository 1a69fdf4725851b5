// The few names that every module uses. Texts in templates are set as text, never as HTML.
import { Fragment, createElement, render } from "./vendor/preact.js";
import { useCallback, useEffect, useLayoutEffect, useMemo, useRef, useState } from "./vendor/hooks.js";
import htm from "./vendor/htm.js";

export const html = htm.bind(createElement);
export { Fragment, render, useCallback, useEffect, useLayoutEffect, useMemo, useRef, useState };
